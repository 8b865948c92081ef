"""The same trainer with the dense part on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.factory import device_of
from services.trainer.models.registry import MODELS
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import Recorder, arm, run, settings
from tests.trainer.test_model import inputs, tensors
from tests.trainer.test_models import learned
from tests.trainer.world import FileSource, Shop

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def figures(store: Path, device: str, **changes: object) -> tuple[dict[str, float], Recorder]:
    source, recorder = FileSource({0: Shop(items=20).messages(300)}), Recorder()
    loop, clock = arm(
        store, source, observer=recorder, trigger=VolumeTrigger(200), chosen=settings(device=device, **changes)
    )
    run(loop, clock, source)
    return loop.arm.learner.progress.metrics(), recorder


def test_it_learns_as_on_the_cpu_and_its_exports_pass_their_checks(tmp_path: Path) -> None:
    there, recorder = figures(tmp_path / "gpu", "cuda")
    here, _ = figures(tmp_path / "cpu", "cpu")
    assert recorder.releases
    assert not recorder.failures
    assert there["auc"] == pytest.approx(here["auc"], abs=0.02)
    assert there["log_loss"] == pytest.approx(here["log_loss"], rel=0.05)


def test_products_in_bfloat16_learn_as_well(tmp_path: Path) -> None:
    there, recorder = figures(tmp_path / "half", "cuda", precision="bfloat16")
    here, _ = figures(tmp_path / "full", "cuda")
    assert not recorder.failures
    assert there["auc"] == pytest.approx(here["auc"], abs=0.03)


def test_its_checkpoints_go_on_on_the_cpu(tmp_path: Path) -> None:
    figures(tmp_path, "cuda")
    source = FileSource({0: Shop(items=20).messages(300)})
    loop, _ = arm(tmp_path, source, chosen=settings(device="cpu"))
    assert loop.arm.learner.positions == {0: 300}
    assert all(np.isfinite(value.numpy()).all() for value in loop.arm.learner.strategy.state().values())
    loop.arm.close()


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_scores_as_on_the_cpu(name: str) -> None:
    model, x = learned(name), tensors(inputs())
    here = model.logits(x).detach()
    there = model.cuda().logits({part: value.cuda() for part, value in x.items()}).detach()
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


def test_auto_takes_it() -> None:
    assert device_of(settings()).type == "cuda"
