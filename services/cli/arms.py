"""Arms: shown, compared, promoted. All through the gateway's admin API."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import ADMIN, Actor, Json, Reason, connected, who
from services.cli.output import Table
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from freshrank.v1.models_pb2 import Arms

    from services.cli.settings import CliSettings

Arm = Annotated[str, typer.Argument(metavar="ARM", help="Name of an arm.")]

COLUMNS = ("arm", "share", "state", "units", "reward", "incumbent's", "lift", "surely between", "why")


def group() -> typer.Typer:
    """The group `arms`."""
    found = typer.Typer(
        cls=Commands, help="Show the arms, compare them on shoppers, and say whose is whose.", no_args_is_help=True
    )
    found.command("list")(list_arms)
    found.command("start")(start)
    found.command("stop")(stop)
    found.command("promote")(promote)
    return found


@connected(*ADMIN)
def list_arms(settings: "CliSettings", as_json: Json = False) -> None:
    """The arms, and how the trial between them stands."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        _show(described(api.arms()), as_json)


@connected(*ADMIN)
def start(
    settings: "CliSettings",
    challengers: Annotated[list[str], typer.Argument(metavar="ARM...", help="Arms to compare with the incumbent.")],
    share: Annotated[float, typer.Option(help="Of the shoppers, for each challenger.")] = 0.1,
    sticky: Annotated[float, typer.Option(help="Seconds that a shopper stays with an arm.")] = 3_600,
    least: Annotated[
        float | None, typer.Option(help="Seconds before an arm is promoted.", show_default="as --sticky")
    ] = None,
    most: Annotated[float, typer.Option(help="Seconds after which a trial without a winner ends.")] = 604_800,
    gain: Annotated[float, typer.Option(help="Smallest lift worth a change, as a share of the reward.")] = 0.0,
    error: Annotated[float, typer.Option(help="Probability that an arm which is no better is ever promoted.")] = 0.05,
    reward: Annotated[
        list[str], typer.Option(help="What counts, HEAD=WEIGHT; clicks when left out.", show_default=False)
    ] = [],  # noqa: B006 - typer reads it
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Give challengers a share of the shoppers, and compare them until one is surely better, or surely not."""
    from freshrank.v1.models_pb2 import StartTrialRequest

    from services.cli.grpc import operator

    request = StartTrialRequest(
        challengers=challengers,
        share=share,
        sticky_us=int(sticky * 1e6),
        least_us=int((sticky if least is None else least) * 1e6),
        most_us=int(most * 1e6),
        gain=gain,
        error=error,
        reward=weights(reward),
        actor=who(actor),
    )
    with operator(settings) as api:
        before = api.arms().trial
        found = described(api.start_trial(request))
    _show(found, as_json)
    if found["trial"] == before:
        output.say("the trial has not begun (yet); the publisher's audit record says why")
        raise typer.Exit(NOT_AS_WANTED)


@connected(*ADMIN)
def stop(settings: "CliSettings", actor: Actor = "", reason: Reason = "", as_json: Json = False) -> None:
    """Give all shoppers back to the incumbent."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        _show(described(api.stop_trial(who(actor), reason)), as_json)


@connected(*ADMIN)
def promote(settings: "CliSettings", arm: Arm, actor: Actor = "", reason: Reason = "", as_json: Json = False) -> None:
    """Make an arm the incumbent, whatever a trial says."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        found = described(api.promote_arm(arm, who(actor), reason))
    _show(found, as_json)
    if found["incumbent"] != arm:
        output.say(f"{arm} is not the incumbent (yet)")
        raise typer.Exit(NOT_AS_WANTED)


def weights(given: list[str]) -> dict[str, float]:
    """Weight of each head. Raises InvalidInput.

    >>> weights(["click=1", "purchase=5"])
    {'click': 1.0, 'purchase': 5.0}
    """
    from services.common.errors import InvalidInput

    found = {}
    for text in given:
        head, _, weight = text.partition("=")
        try:
            found[head] = float(weight)
        except ValueError as error:
            raise InvalidInput("--reward", "malformed", f"{text!r} is not HEAD=WEIGHT") from error
    return found


def described(arms: "Arms") -> dict[str, Any]:
    """The arms as plain data."""
    from datetime import UTC, datetime

    def time(us: int) -> str:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="seconds") if us else "-"

    return {
        "incumbent": arms.incumbent,
        "arms": list(arms.arms),
        "trial": arms.trial,
        "started": time(arms.started_us),
        "ended": time(arms.ended_us),
        "running": bool(arms.trial) and not arms.ended_us,
        "challengers": [
            {
                "arm": c.arm,
                "share": c.share,
                "state": c.state,
                "reason": c.reason,
                "figures": {name: c.figures[name] for name in sorted(c.figures)},
            }
            for c in arms.challengers
        ],
    }


def _show(found: dict[str, Any], as_json: bool) -> None:
    rows = []
    for c in found["challengers"]:
        f = c["figures"]
        between = [output.text(f.get(name)) for name in ("lift_low", "lift_high")]
        rows.append(
            [
                c["arm"],
                output.text(c["share"]),
                c["state"],
                output.text(int(f.get("units", 0))),
                *(output.text(f.get(name)) for name in ("reward", "reward_incumbent", "lift")),
                " and ".join(between),
                output.text(c["reason"]),
            ]
        )
    plain = {name: value for name, value in found.items() if name != "challengers"}
    output.show(found, as_json, output.facts("Arms", plain), Table("Challengers", COLUMNS, rows))
