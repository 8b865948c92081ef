"""Learn an archive: `torchrun --nproc-per-node 4 -m services.trainer.distributed --examples DIR`.

Settings are the trainer's. The first process prints what was done as JSON.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from services.common import exits, logs
from services.common.clock import WallClock
from services.common.settings import load_settings
from services.trainer.arm import ArmPaths
from services.trainer.distributed.peers import joined
from services.trainer.distributed.run import Options, device_of_process, learn
from services.trainer.hooks import NoHooks
from services.trainer.lock import alone
from services.trainer.settings import TrainerSettings

log = logging.getLogger(__name__)


def options_of(arguments: Sequence[str] | None = None) -> Options:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="services.trainer.distributed", description=__doc__)
    parser.add_argument("--examples", type=Path, required=True, help="archive: <store>/arms/<arm>/examples")
    parser.add_argument("--staleness", type=int, default=0, help="steps that a row may be behind; 0 = synchronous")
    parser.add_argument("--batch", type=int, default=Options.batch, help="messages in a batch")
    parser.add_argument("--save-every", type=int, default=Options.save_every, help="messages between checkpoints")
    return Options(**vars(parser.parse_args(arguments)))


def main(options: Options, settings: TrainerSettings) -> None:
    """Learn, as one of the processes that `torchrun` started."""
    logs.configure("trainer", settings.log_level)
    with joined(device_of_process(settings)) as peers, ExitStack() as held:
        if not peers.rank:
            held.enter_context(alone(ArmPaths(settings.store, settings.arm).root))
        peers.wait()
        done = 0

        def report(messages: int) -> None:
            nonlocal done
            done += messages
            if not peers.rank:
                log.info("learned", extra={"messages": done})

        outcome = learn(settings, options, peers, WallClock(), NoHooks(), report)
        if not peers.rank:
            print(json.dumps(outcome.plain))


if __name__ == "__main__":
    with exits.one_sentence():
        main(options_of(), load_settings(TrainerSettings))
