"""More partitions for the logs of an installation that has state."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.options import KAFKA, Json, connected

if TYPE_CHECKING:
    from services.cli.resharding import Reshard
    from services.cli.settings import CliSettings


@connected(*KAFKA, "redis_url", "feature_repo", "store")
def reshard(
    settings: "CliSettings",
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="How many there are afterwards.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do it in memory only, and show what would move.")] = False,
    apart: Annotated[
        int, typer.Option(min=0, help="Seconds that the clocks of partitions may differ: they become the newest.")
    ] = 60,
    as_json: Json = False,
) -> None:
    """Divide the logs and the state of ingest, features and joiner by more partitions, each key with all it holds.

    First stop ingest, then features and joiner when they have read everything; start them afterwards with the new
    number. Interrupted, run it again with the same number. Ends with 1, and has changed nothing, when a stream still
    runs or its newest snapshot lacks messages.
    """
    from services.cli.resharding import Reshard, steps

    work = Reshard(settings, partitions, apart * 1_000_000)
    try:
        with output.progress("Moving state", steps(partitions)) as shown:
            plan = work.run(dry_run, shown.at)
    finally:
        work.close()
    found = {"before": plan.before, "after": plan.after, "dry_run": dry_run, "resumed": work.resumed}
    done = {**found, "kept": "" if dry_run else str(settings.store / f"snapshots.of-{plan.before}")}
    data: dict[str, Any] = {**done, "epochs": plan.epochs, "state": [asdict(one) for one in work.sizes.values()]}
    output.show(data, as_json, output.facts("Resharded", done), _sizes(work))
    if not dry_run:
        output.say(f"start the streams with FRESHRANK_PARTITIONS={plan.after}, then trainer, publisher and gateway")


def _sizes(work: "Reshard") -> output.Table:
    rows = [
        [one.service, one.topic, output.text(list(one.before.values())), output.text(list(one.after.values()))]
        for one in work.sizes.values()
    ]
    return output.Table("Entries of state, by partition", ("service", "topic", "before", "after"), rows)
