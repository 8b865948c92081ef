"""Several processes that learn together, as `torchrun` would start them, for tests; on the loopback alone.

They are forked from a process that has torch loaded already, and all end with the function they run.
"""

import multiprocessing as mp
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.clock import ManualClock
from services.trainer.archive_writer import Archive
from services.trainer.distributed.peers import Peers, joined
from services.trainer.distributed.run import Options, Outcome, learn
from services.trainer.examples import Batch
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.learner import Learner
from tests.trainer.arm import settings
from tests.trainer.world import SPEC, Shop

Work = Callable[..., None]
PATIENCE_S = 120
HEAVY = [
    "torch.distributed",
    "torch._dynamo.trace_rules",
    "onnx",
    "onnxruntime",
    "pyarrow.parquet",
    "pydantic_settings",
]
"""What takes seconds to load, DistributedDataParallel's second module most of them; nothing of ours."""


def archive_of(folder: Path, shop: Shop, messages: int) -> Path:
    """What a trainer would have kept of a shop; goes on from what is there."""
    archive, start = Archive(folder), shop.made
    archive.add(Batch({0: (start, start + messages)}, {0: shop.messages(messages)}))
    archive.describe(SPEC)
    archive.flush()
    return folder


def run(work: Work, processes: int, *arguments: Any) -> None:
    """Call `work(peers, *arguments)` in so many processes; raises AssertionError unless all end well."""
    codes = [process.exitcode for process in started(work, processes, *arguments)]
    assert codes == [0] * processes


def started(work: Work, processes: int, *arguments: Any) -> list[BaseProcess]:
    """The same, and the processes when they have ended."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    port = free_port()
    all_ = [
        context.Process(target=_process, args=(rank, processes, port, work, arguments)) for rank in range(processes)
    ]
    for process in all_:
        process.start()
    for process in all_:
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
    return all_


def learn_archive(peers: Peers, store: Path, options: Options, changes: Mapping[str, Any]) -> None:
    """The command, with small settings; the first process leaves the outcome in `store`."""
    outcome = outcome_of(peers, store, options, changes)
    if not peers.rank:
        (store / f"oldest-{peers.count}").write_text(str(outcome.oldest))


def outcome_of(
    peers: Peers, store: Path, options: Options, changes: Mapping[str, Any], hooks: Hooks | None = None
) -> Outcome:
    """The same, and what was done."""
    chosen = settings(**{"admission": 2, "store": store, "device": "cpu", **changes})
    return learn(chosen, options, peers, ManualClock(), hooks or NoHooks(), lambda messages: None)


def learned(learner: Learner) -> dict[str, NDArray[Any]]:
    """All that a learner has made, in an order that does not depend on where rows lie."""
    state = {name: value.numpy() for name, value in learner.strategy.state().items()}
    for name, table in (("item", learner.tables.item), ("user", learner.tables.user)):
        live = np.flatnonzero(table.live)
        live = live[np.argsort(table.keys[live])]
        state |= {f"{name}.{k}": getattr(table, k)[live] for k in ("keys", "rows", "squares", "seen_us")}
        state |= {f"{name}.ids": np.array(table.ids.get(live)), f"{name}.counts": table.sketch.counts}
    figures = learner.progress.metrics()
    state["figures"] = np.array([figures[name] for name in sorted(figures)])
    counters = (learner.steps, learner.learned, learner.learned_up_to_us, learner.log_us, *learner.positions.values())
    return state | {"counters": np.array(counters)}


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _process(rank: int, processes: int, port: int, work: Work, arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as peers:
        work(peers, *arguments)
