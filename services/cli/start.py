"""Commands that hand over to other programs of this project: the demo, and the creation of topics."""

import os
import sys
from typing import Annotated

import typer


def demo(context: typer.Context) -> None:
    """Run everything on this machine, drive traffic, show what happened. `freshrank demo --help` has the options."""
    # The same process goes on as the demo, so signals and its exit code are the demo's own.
    os.execv(sys.executable, [sys.executable, "-m", "services.demo", *context.args])


def topics(
    replication_factor: Annotated[int, typer.Option(help="Copies of each partition; -1 = the brokers' default.")] = -1,
) -> None:
    """Create the Kafka topics that are absent; FRESHRANK_BOOTSTRAP and FRESHRANK_PARTITIONS say where and how many."""
    from services.cli.topics import main

    main(["--replication-factor", str(replication_factor)])
