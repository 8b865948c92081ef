"""Releases: shown, compared, promoted, rolled back. All through the gateway's admin API."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import ADMIN, Actor, Json, Reason, connected, who
from services.cli.output import Table
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from freshrank.v1.models_pb2 import Release

    from services.cli.settings import CliSettings

FIGURES = ("auc", "ndcg_at_10", "log_loss", "ctr")
"""Of a release, before (its champion, on the same impressions) and after."""

Name = Annotated[str, typer.Argument(metavar="RELEASE", help="Id of a release, as `releases list` shows it.")]


def group() -> typer.Typer:
    """The group `releases`."""
    found = typer.Typer(
        cls=Commands, help="Show releases, compare them, and say which one serves.", no_args_is_help=True
    )
    found.command("list")(list_releases)
    found.command("show")(show_release)
    found.command("diff")(diff)
    found.command("promote")(promote)
    found.command("rollback")(rollback)
    return found


@connected(*ADMIN)
def list_releases(
    settings: "CliSettings",
    as_json: Json = False,
) -> None:
    """All releases that are kept, newest first."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        found = [described(release) for release in api.releases()]
    brief = ("auc", "log_loss")
    columns = ("release", "state", *brief, "reason")
    rows = [
        [r["release"], r["state"], *(output.text(r["after"].get(f)) for f in brief), output.text(r["reason"])]
        for r in found
    ]
    output.show(found, as_json, Table("Releases", columns, rows))


@connected(*ADMIN)
def show_release(
    settings: "CliSettings",
    release: Name,
    as_json: Json = False,
) -> None:
    """One release: where it stands, why, and its figures before and after."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        found = described(api.release(release))
    plain = {name: value for name, value in found.items() if not isinstance(value, dict)}
    rows = [[f, output.text(found["before"].get(f)), output.text(found["after"].get(f))] for f in FIGURES]
    others = {
        n: v for n, v in found["metrics"].items() if n.removesuffix("_parent").removeprefix("champion_") not in FIGURES
    }
    output.show(
        found,
        as_json,
        output.facts(release, plain),
        Table("Figures", ("figure", "before (champion)", "after"), rows),
        output.facts("Other figures", others),
    )


@connected(*ADMIN)
def diff(
    settings: "CliSettings",
    one: Annotated[str, typer.Argument(metavar="A", help="Id of a release.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Id of another.")],
    as_json: Json = False,
) -> None:
    """Two releases side by side: each against its own champion, and B minus A."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        found = difference(described(api.release(one, "A")), described(api.release(other, "B")))
    columns = ("figure", "A before", "A after", "B before", "B after", "B minus A")
    names = ("a_before", "a_after", "b_before", "b_after", "difference")
    rows = [[figure, *(output.text(values[name]) for name in names)] for figure, values in found.items()]
    output.show({"a": one, "b": other, "figures": found}, as_json, Table(f"A = {one}, B = {other}", columns, rows))


@connected(*ADMIN)
def promote(
    settings: "CliSettings",
    release: Name,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Serve a release that waits for a person."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        _serving(api.promote(release, who(actor)), as_json)


@connected(*ADMIN)
def rollback(
    settings: "CliSettings",
    release: Annotated[
        str, typer.Argument(metavar="[RELEASE]", help="Back to this one; the previous when left out.")
    ] = "",
    arm: Annotated[str, typer.Option(help="Arm of the previous release, when none is named.")] = "main",
    actor: Actor = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Serve an earlier release again, with the rows it was learned with."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        before = api.status().champion
        answer = api.rollback(release, who(actor), reason, arm)
    _serving(answer, as_json, before if not release else "")


def _serving(release: "Release", as_json: bool, instead_of: str = "") -> None:
    found = described(release)
    short = {name: found[name] for name in ("release", "state", "slot", "epoch", "reason")}
    output.show(found, as_json, output.facts("Asked for", short))
    if instead_of and found["release"] == instead_of:
        output.say(f"{instead_of} still serves: there may be no previous release (`freshrank releases list`)")
        raise typer.Exit(NOT_AS_WANTED)
    if found["state"] != "champion":
        output.say(f"{release.release or 'nothing'} does not serve (yet); `freshrank status` shows what does")
        raise typer.Exit(NOT_AS_WANTED)


def described(release: "Release") -> dict[str, Any]:
    """A release as plain data, figures before and after apart."""
    from datetime import UTC, datetime

    from freshrank.v1.models_pb2 import ReleaseState

    def time(us: int) -> str:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="seconds") if us else "-"

    metrics = {name: release.metrics[name] for name in sorted(release.metrics)}
    return {
        "release": release.release,
        "state": ReleaseState.Name(release.state).removeprefix("RELEASE_STATE_").lower(),
        "parent": release.parent,
        "created": time(release.created_us),
        "learned_up_to": time(release.learned_up_to_us),
        "learned_up_to_us": release.learned_up_to_us,
        "slot": release.slot,
        "epoch": release.epoch,
        "reason": release.reason,
        "before": {
            f: v for f in FIGURES if (v := metrics.get(f"champion_{f}", metrics.get(f"{f}_parent"))) is not None
        },
        "after": {f: metrics[f] for f in FIGURES if f in metrics},
        "metrics": metrics,
    }


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Each figure of both, before and after, and how much higher it is in the other."""
    out: dict[str, dict[str, float | None]] = {}
    for figure in FIGURES:
        first, second = one["after"].get(figure), other["after"].get(figure)
        out[figure] = {
            "a_before": one["before"].get(figure),
            "a_after": first,
            "b_before": other["before"].get(figure),
            "b_after": second,
            "difference": second - first if first is not None and second is not None else None,
        }
    return out
