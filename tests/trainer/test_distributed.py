"""Several processes learn what one learns."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.trainer.archive import ArchiveSource
from services.trainer.checkpoint import Checkpoints
from services.trainer.distributed.peers import Peers, Summed
from services.trainer.distributed.run import Options
from services.trainer.distributed.split import cuts, owners_of, plan_of
from services.trainer.distributed.strategy import _refuse
from services.trainer.factory import learner_of
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from services.trainer.models.registry import MODELS
from services.trainer.strategies.online import OnlineConfig
from tests.trainer.arm import KillAt, arm, settings
from tests.trainer.strategies.shop import step_of
from tests.trainer.together import archive_of, free_port, learn_archive, learned, outcome_of, run, started
from tests.trainer.world import SPEC, FileSource, Shop

MESSAGES, BATCH = 120, 30
STEPS = {"batch_impressions": 4, "batch_items": 40}


Learnt = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(tmp_path_factory.mktemp("archive"), Shop(seed=7, items=30, listed=7), MESSAGES)


@pytest.fixture(scope="module")
def alone(examples: Path) -> Learnt:
    return one_process(examples)


@pytest.fixture(scope="module")
def synchronous(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    return learn(2, tmp_path_factory.mktemp("synchronous"), examples)


def restored(store: Path, **changes: object) -> Learner:
    """What one process finds in the newest checkpoint."""
    saved = Checkpoints(store / "arms/main/checkpoints", NoHooks()).newest()
    assert saved is not None
    learner = learner_of(settings(**{"admission": 2, **changes}), SPEC, saved.meta["blocks"])
    learner.restore(saved.meta, saved.files, saved.rows)
    return learner


def one_process(examples: Path, **changes: object) -> Learnt:
    """The archive learned by the trainer's own fold."""
    torch.set_num_threads(1)
    learner, source = (
        learner_of(settings(**{"admission": 2, **STEPS, **changes}), SPEC, None),
        ArchiveSource(examples, BATCH),
    )
    while (batch := source.poll()) is not None:
        learner.apply(batch)
    return learned(learner)


def learn(processes: int, store: Path, examples: Path, staleness: int = 0, **changes: object) -> Learnt:
    """The archive learned by so many processes."""
    store.mkdir(exist_ok=True)
    run(learn_archive, processes, store, Options(examples, staleness, BATCH), {**STEPS, **changes})
    return learned(restored(store))


def oldest(store: Path) -> int:
    """Steps that the oldest row lacked which two processes read."""
    return int((store / "oldest-2").read_text())


def assert_alike(ours: Learnt, theirs: Learnt, tolerance: float = 2e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, theirs[name], rtol=tolerance, atol=tolerance / 20, err_msg=name)
        else:
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def assert_same_bits(ours: Learnt, theirs: Learnt) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name


def test_a_run_of_examples_for_everybody_and_nobody_twice() -> None:
    sizes = [7, 1, 1, 30, 2, 2, 9]
    for processes in range(1, 10):
        bounds = cuts(sizes, processes)
        assert bounds[0] == 0
        assert bounds[-1] == len(sizes)
        assert (np.diff(bounds) >= 0).all()


def test_runs_are_about_equally_long() -> None:
    sizes = np.random.default_rng(0).integers(1, 20, 400).tolist()
    ends = np.concatenate([[0], np.cumsum(sizes)])
    assert np.ptp(np.diff(ends[cuts(sizes, 4)])) <= 2 * max(sizes)


def test_what_a_process_reads_is_what_its_own_examples_name() -> None:
    plan = plan_of(step_of(Shop(seed=2).messages(9)), 0, SPEC, 3)
    for process in range(3):
        named = [part.items_of(process) for part in plan.parts]
        np.testing.assert_array_equal(plan.wanted[0][process], np.unique(np.concatenate(named)))
    every = np.unique(np.concatenate([part.item_keys for part in plan.parts]))
    np.testing.assert_array_equal(np.unique(np.concatenate(plan.wanted[0])), every)


def test_keys_are_spread_evenly() -> None:
    keys = np.random.default_rng(1).integers(0, 2**64, 40_000, dtype=np.uint64)
    assert np.bincount(owners_of(keys, 4)).min() > 9_700


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_weight_of_a_model_has_a_gradient_of_a_step(model: str) -> None:
    made = learner_of(settings(model=model), SPEC, None)
    group = made.encode(step_of(Shop(seed=3).messages(2)).initial)
    weights = list(made.strategy.ranker.parameters())
    total = made.strategy.loss(made.strategy.ranker.logits(group.tensors(torch.device("cpu"))), group)  # type: ignore[attr-defined]
    assert all(g is not None for g in torch.autograd.grad(total, weights, allow_unused=True))


def test_who_has_no_examples_has_gradients_of_zero() -> None:
    layer = torch.nn.Linear(3, 2)
    Summed(layer)(lambda: torch.zeros(())).backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(
    ("field", "config", "parts"),
    [
        ("strategy", OnlineConfig(), 1),
        ("labels", OnlineConfig(labels="waiting"), 0),
        ("hold_out", OnlineConfig(hold_out=0.1), 0),
        ("accumulate", OnlineConfig(accumulate=2), 0),
    ],
)
def test_what_several_processes_cannot_do_is_refused(field: str, config: OnlineConfig, parts: int) -> None:
    with pytest.raises(InvalidInput) as found:
        _refuse(config, parts)
    assert found.value.field == field


def test_two_processes_learn_what_one_does(synchronous: Learnt, alone: Learnt) -> None:
    assert_alike(synchronous, alone)


def test_it_is_the_same_bit_for_bit_every_time(synchronous: Learnt, examples: Path, tmp_path: Path) -> None:
    assert_same_bits(synchronous, learn(2, tmp_path, examples))
    assert oldest(tmp_path) == 0


def test_no_row_is_older_than_the_bound(alone: Learnt, examples: Path, tmp_path: Path) -> None:
    ours = learn(2, tmp_path, examples, staleness=2)
    assert oldest(tmp_path) == 2
    assert np.abs(ours["item.rows"] - alone["item.rows"]).max() > 1e-3


@pytest.mark.pipeline
def test_what_is_stale_is_the_same_bit_for_bit_every_time(examples: Path, tmp_path: Path) -> None:
    assert_same_bits(learn(3, tmp_path / "a", examples, 3), learn(3, tmp_path / "b", examples, 3))


@pytest.mark.pipeline
def test_four_then_two_then_one_process_go_on_from_each_other(tmp_path: Path) -> None:
    shop, examples, store = Shop(seed=9, items=30, listed=7), tmp_path / "examples", tmp_path / "store"
    for processes, more in ((4, 60), (2, 30), (1, 30)):
        archive_of(examples, shop, more)
        ours = learn(processes, store, examples)
    assert restored(store).positions == {0: 120}
    assert_alike(ours, one_process(examples))


@pytest.mark.pipeline
def test_the_trainer_of_the_topic_goes_on_and_gives_back(tmp_path: Path) -> None:
    shop, examples = Shop(seed=9, items=30, listed=7), tmp_path / "examples"
    archive_of(examples, shop, 60)
    learn(2, tmp_path, examples)
    source = FileSource({0: Shop(seed=9, items=30, listed=7).messages(90)}, sizes=(BATCH,))
    loop, _ = arm(tmp_path, source, chosen=settings(admission=2, **STEPS))
    tables = loop.arm.learner.tables
    assert loop.arm.push() == len(tables.item) + len(tables.user)  # the store has none of them yet
    while not source.done:
        loop.turn()
    loop.arm.close()
    archive_of(examples, shop, 60)
    assert_alike(learn(2, tmp_path, examples), one_process(examples))


@pytest.mark.pipeline
def test_a_process_that_dies_ends_all_and_leaves_whole_checkpoints(examples: Path, tmp_path: Path) -> None:
    first, second = started(_killed_at_its_second_checkpoint, 2, tmp_path, examples)
    assert first.exitcode == -9
    assert second.exitcode not in (0, -9)
    assert restored(tmp_path).positions == {0: BATCH}
    assert_alike(learn(2, tmp_path, examples), one_process(examples))


@pytest.mark.parametrize(
    ("device", "processes"),
    [pytest.param("cpu", 2, marks=pytest.mark.pipeline), pytest.param("cuda", 1, marks=pytest.mark.gpu)],
)
def test_the_command_as_kubeflow_starts_it(
    device: str, processes: int, examples: Path, tmp_path: Path, alone: Learnt
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "-m", "services.trainer.distributed"]
    node = {"NNODES": 1, "NPROC_PER_NODE": processes, "NODE_RANK": 0}
    node |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    chosen = settings(admission=2, store=tmp_path, device=device, **STEPS).model_dump(exclude_unset=True)
    environment = os.environ | {f"PET_{name}": str(value) for name, value in node.items()}
    environment |= {f"FRESHRANK_TRAINER_{name.upper()}": str(value) for name, value in chosen.items()}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command += ["--examples", str(examples), "--batch", str(BATCH)]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=120, check=True)
    assert json.loads(found.stdout)["processes"] == processes
    assert_alike(learned(restored(tmp_path, device="cpu")), alone)


def _killed_at_its_second_checkpoint(peers: Peers, store: Path, examples: Path) -> None:
    """A checkpoint every 30 messages; the process that writes dies with the second one half written."""
    hooks = NoHooks() if peers.rank else KillAt("checkpoint.staged", 2)
    outcome_of(peers, store, Options(examples, batch=BATCH, save_every=BATCH), STEPS, hooks)
