"""A full retrain from an arm's archive, judged by the gate that judges releases."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.options import Json
from services.common.exits import NOT_AS_WANTED


def retrain(
    arm: Annotated[str, typer.Argument(metavar="ARM", help="Name of the new arm that comes of it.")],
    store: Annotated[
        Path | None, typer.Option(help="Model store; the trainer's when left out.", show_default=False)
    ] = None,
    of: Annotated[str, typer.Option(help="Arm whose archive is learned, and which it is compared with.")] = "main",
    if_asked: Annotated[bool, typer.Option("--if-asked", help="Only if its maintenance policy asks for it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Keep it although the gate says no.")] = False,
    as_json: Json = False,
) -> None:
    """Learn an arm's archive anew, and keep what comes of it as a new arm if it is no worse than the first.

    Settings are those of the FRESHRANK_TRAINER_ variables here. Both arms are judged on the newest lists of the
    archive before they learn them, by the checks and bounds of the release gate. Then start a trainer and a publisher
    of the new arm: they go on where the archive ends. Ends with 1 when the gate says no.
    """
    from services.common.arms import PATTERN, suffix
    from services.common.clock import WallClock
    from services.common.errors import InvalidInput
    from services.common.settings import load_settings
    from services.publisher.audit import Audit
    from services.publisher.gate import judge_learner
    from services.publisher.settings import PublisherSettings
    from services.trainer.arm import ArmPaths
    from services.trainer.retrain import Retrain
    from services.trainer.settings import TrainerSettings

    if re.fullmatch(PATTERN, arm) is None:
        raise InvalidInput("ARM", "malformed", f"{arm!r} is no name of an arm")
    given = {"arm": arm} | ({"store": store} if store is not None else {})
    settings = load_settings(TrainerSettings).model_copy(update=given)
    wish = ArmPaths(settings.store, of).wishes
    if if_asked and not wish.exists():
        output.show({"asked": False}, as_json, output.facts("Retrain", {"asked for": False}))
        return
    bounds = load_settings(PublisherSettings).gate_bounds()
    work = Retrain(settings, of)
    with output.progress("messages", work.messages) as shown:
        counted = _Counted(shown)
        work.learn(counted)
        found = work.compare(counted)
    wish.unlink(missing_ok=True)
    checks = judge_learner(found.metrics, first=False, young=False, bounds=bounds)
    failed = [str(check) for check in checks if not check.passed]
    kept = not failed or force
    where = work.save() if kept else ""
    audit = Audit(settings.store / "releases" / f"audit{suffix(arm)}.jsonl")
    audit.add(
        WallClock().now_us(), "retrained" if kept else "retrain_refused", arm=arm, of=of, reason="; ".join(failed),
        metrics=found.metrics, checks=[vars(check) for check in checks],
    )  # fmt: skip
    data: dict[str, Any] = {**vars(found), "kept": kept, "checkpoint": where, "checks": [vars(c) for c in checks]}
    rows = [[c.name, output.text(c.figure), output.text(c.bound), output.text(c.passed)] for c in checks]
    facts = {name: data[name] for name in ("arm", "learned", "judged", "seconds", "kept", "checkpoint")}
    gate = output.Table("Gate", ("check", "is", "bound", "held"), rows)
    output.show(data, as_json, output.facts("Retrained", facts), gate)
    if failed:
        output.say(f"the gate says no: {'; '.join(failed)}")
        raise typer.Exit(NOT_AS_WANTED)


class _Counted:
    def __init__(self, shown: output.Progress) -> None:
        self._shown, self._done = shown, 0

    def __call__(self, messages: int) -> None:
        self._done += messages
        self._shown.at(self._done, "")
