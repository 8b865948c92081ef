"""Ways of learning tried on an archive of examples, without a running system."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.options import Json
from services.common.errors import InvalidInput

if TYPE_CHECKING:
    from services.trainer.evaluation.rehearsal import Trial
    from services.trainer.tracking import Tracker

_WAYS = "A way to compare: 'NAME: SETTING=VALUE; ...', such as 'replay: strategy=replay(2000, 0.5)'. Again for more."


def evaluate(
    examples: Annotated[Path, typer.Argument(help="Archive of a trainer: <store>/arms/<arm>/examples.")],
    way: Annotated[list[str] | None, typer.Option(help=_WAYS, show_default=False)] = None,
    lag: Annotated[list[float] | None, typer.Option(min=0, help="Deploy lag in seconds to judge too.")] = None,
    tail: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the lists that is judged, the newest.")] = 0.5,
    beta: Annotated[
        float, typer.Option(min=0.1, max=10, help="Recall counts so many times what precision does: thresholds by F.")
    ] = 1.0,
    precision: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least precision of thresholds instead.", show_default=False)
    ] = None,
    top: Annotated[list[int] | None, typer.Option(min=1, help="NDCG and recall of so many first places too.")] = None,
    out: Annotated[Path, typer.Option(help="JSON with the results; goes on from what is there.")] = Path("study.json"),
    report: Annotated[Path | None, typer.Option(help="HTML page with plots to write.", show_default=False)] = None,
    track: Annotated[
        str, typer.Option(help="Trackers that get a run of each way: those of FRESHRANK_TRAINER_TRACKERS' kind.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Learn an archive again, each list judged before it is learned, and compare ways of learning list by list.

    The first way is that of the FRESHRANK_TRAINER_ variables here; releases come when their trigger says so, on the
    log's clock. Differences are of the same lists, with bootstrap intervals of 95 %.
    """
    trials = [changes_of("--way", "as set", ""), *(named_trial(text) for text in way or [])]
    from services.trainer.archive import ArchiveSource
    from services.trainer.evaluation.study import Settings, Study
    from services.trainer.evaluation.thresholds import Segments
    from services.trainer.evaluation.tracked import keep

    trackers = _trackers(track)
    if not examples.is_dir():
        raise InvalidInput("EXAMPLES", "missing", f"{examples} is no folder")
    source = ArchiveSource(examples)
    settings = Settings(tuple(lag or ()), tail, thresholds=Segments(beta, precision), tops=tuple(top or ()))
    study = Study(out, source, settings)
    with output.progress("messages", source.messages * len(trials)) as shown:
        study.run(trials, _Counted(shown))
    results = {trial.name: study.results[trial.name] for trial in trials}
    if report is not None:
        from services.trainer.evaluation.report import write

        write(report, f"{len(results)} ways of learning", results)
        output.say(f"Report: {report.absolute()}")
    for tracker in trackers:
        for error in keep(tracker, results, out.parent):
            output.say(f"{tracker.package}: {type(error).__name__}: {error}")
    output.show(results, as_json, _table(results))


def _trackers(line: str) -> "list[Tracker]":
    from services.trainer import tracking

    try:
        return [tracking.installed(tracker) for tracker in tracking.parse(line)]
    except ValueError as error:
        raise InvalidInput("--track", "unreadable", str(error)) from error


class _Counted:
    """Adds up what trials report."""

    def __init__(self, shown: output.Progress) -> None:
        self._shown, self._done = shown, 0

    def __call__(self, name: str, messages: int) -> None:
        self._done += messages
        self._shown.at(self._done, name)


def named_trial(text: str) -> "Trial":
    """A way of `--way`. Raises InvalidInput."""
    name, found, changes = text.partition(":")
    if not found or not name.strip():
        raise InvalidInput("--way", "unreadable", f"{text!r} is not NAME: SETTING=VALUE; ...")
    return changes_of("--way", name.strip(), changes)


def changes_of(option: str, name: str, changes: str) -> "Trial":
    """Settings that differ from those of the environment. Raises InvalidInput that names the option."""
    from pydantic import ValidationError

    from services.trainer.evaluation.rehearsal import Trial

    values: dict[str, Any] = {}
    for part in filter(None, (each.strip() for each in changes.split(";"))):
        setting, found, value = part.partition("=")
        if not found:
            raise InvalidInput(option, "unreadable", f"{part!r} is not SETTING=VALUE")
        values[setting.strip()] = value.strip()
    trial = Trial(name, values)
    try:
        trial.settings()
    except ValidationError as error:
        first = error.errors()[0]
        where = first["loc"][0] if first["loc"] else "settings"
        raise InvalidInput(option, "invalid", f"{name}: {where}: {first['msg']}") from error
    return trial


def _table(results: dict[str, dict[str, Any]]) -> output.Table:
    columns = ("way", "AUC", "MRR", "difference", "95 %", "log-loss", "releases", "s per 1,000")
    rows = []
    for name, found in results.items():
        change = found["mrr_difference"] or {}
        interval = f"{output.text(change.get('lower'))} to {output.text(change.get('upper'))}"
        cells = (found["auc"]["value"], found["mrr"]["value"], change.get("value"))
        costs = (found["log_loss"]["value"], found["releases"], found["seconds_per_1000"])
        rows.append([name, *map(output.text, cells), interval, *map(output.text, costs)])
    return output.Table("Judged before learned", columns, rows)
