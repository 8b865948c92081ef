"""`make demo`: everything on one machine."""

import argparse
import asyncio
import tempfile
from pathlib import Path

from services.demo.arms import SLOTS, ArmPlan
from services.demo.replay import Speed
from services.demo.run import Options, run
from services.demo.traffic import Pace
from services.demo.world import DOMAINS


def main() -> int:
    """Read the arguments and run; exit code 0 only if the ledger holds."""
    parser = argparse.ArgumentParser(prog="freshrank demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of a public log; without it a simulated shop")
    parser.add_argument("--domain", choices=sorted(DOMAINS), default="shop")
    parser.add_argument("--minutes", type=float, default=2.5, help="of simulated traffic")
    parser.add_argument("--rate", type=float, default=150.0, help="events per second of the simulated shop")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--lockstep", action="store_true", help="wait for every stage before each request")
    parser.add_argument("--speed", type=float, default=0.0, help="log seconds per second; 0 = as fast as it goes")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many events of the log")
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    parser.add_argument("--report", type=Path, default=Path("demo-report"))
    parser.add_argument("--folder", type=Path, help="where data and logs go; a fresh temporary folder by default")
    parser.add_argument("--partitions", type=int, help="of each topic; 2, and 1 in lockstep, where nothing runs beside")
    parser.add_argument(
        "--strategies", default="", help="learned by in turn, apart by |, such as 'replay(2000, 0.2) | ewc(10)'"
    )
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        help="compared with the first by a trial, with trainer settings of its own: 'towers: model=two_tower; seed=2'",
    )
    options = parser.parse_args()
    try:
        arms = tuple(ArmPlan.parse(text) for text in options.arm)
    except ValueError as error:
        parser.error(f"--arm: {error}")
    if len(arms) > len(SLOTS):
        parser.error(f"--arm: {len(SLOTS)} beside the first at most")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="freshrank-"))
    chosen = Options(
        folder=folder,
        report=options.report,
        partitions=options.partitions or (1 if options.lockstep else 2),
        domain=options.domain,
        seed=options.seed,
        pace=Pace(seconds=60 * options.minutes, events_per_second=options.rate),
        data=options.data,
        speed=Speed(options.lockstep, options.speed),
        limit=options.limit,
        keep=options.keep,
        arms=arms,
        strategies=tuple(text.strip() for text in options.strategies.split("|")) if options.strategies else (),
    )
    try:
        return asyncio.run(run(chosen))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
