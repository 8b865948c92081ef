"""Shops that learn one model together, by Flower."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.evaluate import changes_of, named_trial
from services.cli.options import Json
from services.common.errors import InvalidInput

if TYPE_CHECKING:
    from services.trainer.federated.runtime import Link

_CA = "PEM of the authority behind the SuperLink's certificate; speaks TLS. Without it loopback alone."
_WAY = "Settings of a federation to compare: 'NAME: SETTING=VALUE; ...', such as 'fedprox: strategy=proximal(0.01)'."
_ITEMS = "File of items, one id a line, the same everywhere: rows that secure rounds share. Without it none are."

Authority = Annotated[Path | None, typer.Option("--tls-ca", help=_CA, show_default=False)]
Arm = Annotated[str, typer.Option(help="Arm of the store that keeps the rounds; no trainer's.")]
Rate = Annotated[float, typer.Option(min=0.01, max=100, help="Step towards the mean of answers; 1 = all the way.")]
Items = Annotated[Path | None, typer.Option(help=_ITEMS, show_default=False)]


def group() -> typer.Typer:
    """The commands under `freshrank federate`."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=__doc__)
    app.command("study")(study)
    app.command("serve")(serve)
    app.command("join")(join)
    return app


def study(
    shops: Annotated[list[str], typer.Argument(help="NAME=ARCHIVE of each shop: <store>/arms/<arm>/examples.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that each archive is divided into.")] = 20,
    way: Annotated[list[str] | None, typer.Option(help=f"{_WAY} Again for more.", show_default=False)] = None,
    server_rate: Rate = 1.0,
    tail: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the rounds that is judged, the newest.")] = 0.5,
    out: Annotated[Path, typer.Option(help="New folder for what shops keep, and study.json.")] = Path("federation"),
    as_json: Json = False,
) -> None:
    """Learn archives as a federation, each alone, and all as one; compare list by list, judged before learned.

    The first way is federated averaging as the FRESHRANK_TRAINER_ variables here have it.
    """
    import json

    paths = dict(_shop(text) for text in shops)
    trials = [changes_of("--way", "fedavg", ""), *(named_trial(text) for text in way or [])]
    from services.trainer.federated import study as studies

    federations = [studies.Federation(t.name, t.changes, server_rate=server_rate) for t in trials]
    options = studies.Options(rounds, tail)
    with output.progress("rounds", rounds * (len(paths) + 1 + len(trials))) as shown:
        done = 0

        def report(name: str, number: int) -> None:
            nonlocal done
            done += rounds if name == studies.ALONE else 1
            shown.at(done, name)

        found = studies.study(paths, federations, options, out, report)
    (out / "study.json").write_text(json.dumps(found, indent=1))
    output.show(found, as_json, _table(found))


def serve(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in all, those that are over counted.")],
    messages: Annotated[int, typer.Option(min=1, help="Messages after which a round ends, in batches of 20.")] = 2_000,
    least: Annotated[int, typer.Option(min=1, help="Shops whose answers make a round.")] = 2,
    wait: Annotated[float, typer.Option(min=1, help="Seconds for shops to come, and for their answers.")] = 600.0,
    secure: Annotated[bool, typer.Option(help="See only sums of answers (SecAgg+); three shops at least.")] = False,
    items: Items = None,
    most: Annotated[int, typer.Option(min=1, help="Examples of a shop that count in a secure round.")] = 20_000,
    server_rate: Rate = 1.0,
    arm: Arm = "federated",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of it.")] = 8100,
    tls_ca: Authority = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM of the own certificate.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM of its private key.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Be the middle of a federation until its rounds are over; goes on after the last whole one.

    Settings are the trainer's, FRESHRANK_TRAINER_; `arms/<arm>/checkpoints` holds a checkpoint of each round, which
    another arm can begin with (transfer_from).
    """
    from services.trainer.arm import ArmPaths
    from services.trainer.federated import runtime, serving
    from services.trainer.federated.rounds import Plan
    from services.trainer.privacy.catalogue import read_items

    catalogue = tuple(read_items(items)) if items else ()
    Plan(rounds, messages, least, wait, secure, catalogue, most)
    settings = _settings(arm)
    link = _link(host, port, tls_ca, tls_cert, tls_key)
    root = ArmPaths(settings.store.absolute(), arm).root
    config: dict[str, str | int | float | bool] = {"rounds": rounds, "messages": messages, "least": least, "wait": wait}
    config |= {"secure": secure, "most": most, "items": str(items.absolute()) if items else ""}
    config |= {"server_rate": server_rate}
    variables = {"FRESHRANK_TRAINER_STORE": str(settings.store.absolute()), "FRESHRANK_TRAINER_ARM": arm}
    home, over = root / "flower", list[dict[str, Any]]()
    with output.progress("rounds", rounds) as shown, runtime.superlink(link, home, variables) as process:

        def ended(line: dict[str, Any]) -> None:
            over.append(line)
            shown.at(line["round"], f"{line['examples']} examples of {len(line['answered'])} shops")

        start = serving.read(root / serving.LOG)[1]
        run, word = runtime.submit(link, home, config)
        alive = lambda: process.poll() is None and runtime.running(home, run)  # noqa: E731
        last = runtime.follow(root / serving.LOG, word, alive, ended, start)
    found = {"rounds": over, "round": last["round"], "checkpoint": last["checkpoint"]}
    output.show(found, as_json, _rounds(over), output.facts("Ended", {"checkpoint": last["checkpoint"]}))


def join(
    shop: Annotated[str, typer.Argument(help="Name of the shop, different from all others'.")],
    examples: Annotated[Path, typer.Argument(help="Archive of a trainer: <store>/arms/<arm>/examples.")],
    host: Annotated[str, typer.Option(help="Where the middle listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of it.")] = 8100,
    arm: Arm = "federated",
    messages: Annotated[int, typer.Option(min=0, help="Messages after which a round ends here; 0 = as asked.")] = 0,
    items: Items = None,
    tls_ca: Authority = None,
) -> None:
    """Be a shop of a federation until stopped; waits for a middle that is not there.

    Settings are the trainer's, FRESHRANK_TRAINER_.
    """
    from services.trainer.arm import ArmPaths
    from services.trainer.federated import runtime
    from services.trainer.federated.shop import Place, Shop

    settings = _settings(arm)
    Shop(Place(shop, examples, settings, messages)).show()
    store = settings.store.absolute()
    config = {"shop": shop, "examples": str(examples.absolute()), "store": str(store), "arm": arm}
    config |= {"messages": str(messages)} | ({"items": str(items.absolute())} if items else {})
    command = runtime.node_command(_link(host, port, tls_ca), config)
    variables = runtime.environment(ArmPaths(store, arm).root / "flower")
    output.say(f"{shop}: joining {host}:{port}")
    runtime.keep(command, variables)


def _settings(arm: str) -> Any:
    from services.common.settings import load_settings
    from services.trainer.settings import TrainerSettings

    return load_settings(TrainerSettings, given={"arm": arm})


def _link(host: str, port: int, ca: Path | None, cert: Path | None = None, key: Path | None = None) -> "Link":
    from services.trainer.federated.runtime import Link, Tls

    if ca is None and (cert or key):
        raise InvalidInput("--tls-ca", "missing", "a certificate needs its authority")
    return Link(host, port, Tls(ca.absolute(), *(p and p.absolute() for p in (cert, key))) if ca else None)


def _shop(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not found or not name or not Path(path).is_dir():
        raise InvalidInput("SHOPS", "unreadable", f"{text!r} is not NAME=ARCHIVE, with a folder")
    return name, Path(path)


def _table(results: dict[str, dict[str, Any]]) -> output.Table:
    rows = []
    for name, found in results.items():
        change = found["mrr_difference"]
        interval = f"{output.text(change['lower'])} to {output.text(change['upper'])}"
        cells = (found["auc"]["value"], found["mrr"]["value"], found["log_loss"]["value"], change["value"])
        rows.append([name, *map(output.text, cells), interval])
    columns = ("way", "AUC", "MRR", "log-loss", "MRR beside alone", "95 %")
    return output.Table("Judged before learned", columns, rows)


def _rounds(over: list[dict[str, Any]]) -> output.Table:
    rows = [
        [str(line["round"]), str(line["examples"]), ", ".join(line["answered"]), ", ".join(line["missing"]) or "-"]
        for line in over
    ]
    return output.Table("Rounds", ("round", "examples", "answered", "missing"), rows)
