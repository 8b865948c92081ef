"""The processes that learn together, as few collectives on numpy arrays.

What travels has a size that both sides know beforehand, so there is one message where there could be two. Nothing is
pickled. Every process calls the same functions in the same order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from services.common.errors import InvalidInput
from services.trainer.groups import Floats
from services.trainer.learner import Arrays

PATIENCE = timedelta(minutes=5)
"""How long one waits for the others before it gives up: longer than rank 0 takes to write a checkpoint."""


@contextmanager
def joined(device: torch.device) -> Iterator["Peers"]:
    """Meet the processes that `torchrun` started: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say who they are.

    Gradients on a GPU go through NCCL; rows lie in main memory and go through gloo. Raises InvalidInput without
    `torchrun`.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except ValueError as error:
        raise InvalidInput("torchrun", "missing", f"start this with torchrun: {error}") from error
    yield Peers()
    # Not in a `finally`: who fails must not wait for the others here.
    dist.destroy_process_group()


class Arriving:
    """Blocks on their way."""

    def __init__(self, work: dist.Work, sent: Tensor, received: Tensor, sizes: Sequence[int]) -> None:
        self._work, self._sent, self._received, self._sizes = work, sent, received, sizes

    def wait(self) -> list[Floats]:
        """What each process sent, by its number."""
        self._work.wait()
        return np.split(self._received.numpy(), np.cumsum(self._sizes)[:-1])


class Peers:
    """This process among the others."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def exchange(self, blocks: Sequence[Floats], sizes: Sequence[int]) -> Arriving:
        """Send `blocks[p]` [n, width] to process p; process q will have sent `sizes[q]` rows. Returns at once."""
        sent = torch.from_numpy(np.concatenate(blocks))
        received = torch.empty((sum(sizes), sent.shape[1]))
        work = dist.all_to_all_single(received, sent, list(sizes), [len(block) for block in blocks], async_op=True)
        assert work is not None
        return Arriving(work, sent, received, sizes)

    def rows_of_all(self, mine: Floats, counts: Sequence[int]) -> Floats:
        """Rows [n, ...] of all processes, one process after the other; `counts` says how many each has."""
        most = max(counts)
        if not most:
            return mine
        padded = torch.zeros((most, *mine.shape[1:]))
        padded[: len(mine)] = torch.from_numpy(mine)
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return np.concatenate([part[:count].numpy() for part, count in zip(gathered, counts, strict=True)])

    def summed(self, values: NDArray[np.float64] | Floats) -> Tensor:
        """Sum over all processes, in the shape of `values`."""
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return total

    def collected(self, arrays: Arrays) -> list[Arrays]:
        """The arrays of every process, on the first one; nothing on the others. They differ in their lengths alone."""
        mine = [np.ascontiguousarray(array) for array in arrays.values()]
        lengths = [torch.zeros(len(mine), dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(lengths, torch.tensor([len(array) for array in mine]))
        if self.rank:
            for array in mine:
                if array.nbytes:
                    dist.send(_bytes(array.copy()), 0)
            return []
        others = [
            [_received(array, int(n), source) for array, n in zip(mine, lengths[source], strict=True)]
            for source in range(1, self.count)
        ]
        return [dict(zip(arrays, each, strict=True)) for each in (mine, *others)]

    def wait(self) -> None:
        """Until all are here."""
        dist.barrier()


def _received(like: NDArray[np.generic], length: int, source: int) -> NDArray[np.generic]:
    array = np.empty((length, *like.shape[1:]), like.dtype)
    if array.nbytes:
        dist.recv(_bytes(array), source)
    return array


def _bytes(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.view(np.uint8).reshape(-1))


class Summed(nn.Module):
    """A loss as the module that DistributedDataParallel wraps: `forward` is asked for this process's part of it."""

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, part: Callable[[], Tensor]) -> Tensor:
        """A number that every weight has a gradient of, if only zero: the others wait for it."""
        total = part()
        if total.requires_grad:
            return total
        return total + sum((weight.sum() * 0 for weight in self.weights.parameters()), torch.zeros(()).to(total))


def parallel(weights: nn.Module) -> DistributedDataParallel:
    """`Summed` over all processes; gradients are added up, where DistributedDataParallel would average them.

    Losses are sums over a step (`strategies.online`), so the gradient of a step is the sum of its parts' gradients.
    Buffers are not copied from the first process: every one has seen the same values.
    """
    module = DistributedDataParallel(Summed(weights), forward_sync_buffers=False)
    module.register_comm_hook(None, _added)
    return module


def _added(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


def merged(parts: Sequence[Mapping[str, NDArray[np.generic]]]) -> Arrays:
    """Arrays of several processes one behind the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
