"""The gate on a planted set: each bad candidate stops, an equal one passes, one a little worse is left to the watch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from services.common.encode import NoRows, RowLookup
from services.common.spec import FeatureRef
from services.publisher import gate, onnx_file, scores, shelf
from services.publisher import manifest as manifests
from services.publisher.checks import Verdict
from services.publisher.examine import Situation, examine
from services.publisher.gate import GateBounds
from services.publisher.onnx_file import FileBounds
from services.publisher.replay import Replay, Snapshot
from services.publisher.shelf import Opened
from services.publisher.table import Rows, SlotTables
from tests.publisher.exports import (
    SPEC,
    Net,
    export,
    figures,
    model_proto,
    noisy,
    onnx_model,
    window,
    with_auc_lost,
    write_manifest,
)

CHAMPION = Net()
KEPT = 2_000
LEARNER_SEED, KEPT_SEED = 1, 2


@dataclass
class Bench:
    """One champion and the impressions that candidates are judged on."""

    folder: Path
    champion: Opened
    replay: Snapshot
    rows: RowLookup

    def judge(
        self,
        net: Net,
        *,
        trained: Net | None = None,
        claimed: Net | None = None,
        change: Callable[[Path], None] = lambda folder: None,
        first: bool = False,
        rows: RowLookup | None = None,
        rows_time_us: int = 1_000_000,
        young: bool = False,
        **more: object,
    ) -> Verdict:
        """Export a net and judge it; `claimed` is the net that the learner's figures are of."""
        seen = window(KEPT, LEARNER_SEED)
        metrics = figures(claimed or net, None if first else CHAMPION, seen, rows)
        parent = "" if first else self.champion.manifest.release
        number = len(list(self.folder.iterdir())) + 1
        folder = export(self.folder, net, metrics, trained=trained, seq=number, second=number, parent=parent, more=more)
        change(folder)
        champion = None if first else self.champion
        known = frozenset([self.champion.manifest.release])
        now = Situation(champion, self.replay, rows or self.rows, 10**6, rows_time_us, young, known)
        return examine(manifests.read(folder), 1, folder, now, GateBounds(), FileBounds())


@pytest.fixture(scope="module")
def closed_replay() -> Snapshot:
    """Kept impressions, encoded once for the module."""
    replay = Replay(KEPT)
    for closed in window(KEPT, KEPT_SEED):
        replay.add(closed)
    return replay.snapshot()


@pytest.fixture
def bench(tmp_path: Path, closed_replay: Snapshot) -> Bench:
    folder = export(tmp_path / "champion", CHAMPION, {}, second=59)
    (tmp_path / "exports").mkdir()
    return Bench(tmp_path / "exports", shelf.opened(folder), closed_replay, NoRows(SPEC.row_dim))


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.failed}


def test_an_equal_candidate_passes(bench: Bench) -> None:
    verdict = bench.judge(noisy(CHAMPION, 0.005, 1))
    assert verdict.passed, verdict.reason


def test_a_first_release_needs_no_champion(bench: Bench) -> None:
    verdict = bench.judge(CHAMPION, first=True)
    assert verdict.passed, verdict.reason


def test_a_first_release_must_beat_the_base_rate(bench: Bench) -> None:
    worse = replace(CHAMPION, base=(1.0, -3.0, -4.0))
    assert "learner_log_loss" in failed(bench.judge(worse, first=True))
    assert "file_log_loss" in failed(bench.judge(worse, claimed=CHAMPION, first=True))


def test_a_candidate_that_loses_a_hundredth_of_auc_stops(bench: Bench) -> None:
    assert {"learner_auc", "file_auc"} & failed(bench.judge(with_auc_lost(0.01)))


def test_the_file_alone_shows_a_lost_hundredth_of_auc(bench: Bench) -> None:
    verdict = bench.judge(with_auc_lost(0.01), claimed=CHAMPION)
    assert "file_auc" in failed(verdict)


def test_a_candidate_that_loses_two_thousandths_passes_and_is_left_to_the_watch(bench: Bench) -> None:
    verdict = bench.judge(with_auc_lost(0.002))
    assert verdict.passed, verdict.reason


NOT_A_NUMBER = replace(CHAMPION, weights=np.full(6, np.nan, np.float32))
SWAPPED = replace(CHAMPION, weights=-CHAMPION.weights)
PERMUTED = replace(CHAMPION, weights=CHAMPION.weights[[1, 0, 2, 4, 3, 5]])
CONSTANT = replace(CHAMPION, weights=np.zeros(6, np.float32))


@pytest.mark.parametrize(
    ("net", "trained", "claimed", "check"),
    [
        pytest.param(NOT_A_NUMBER, CHAMPION, CHAMPION, "golden_parity", id="answers are not numbers"),
        pytest.param(NOT_A_NUMBER, None, CHAMPION, "readable", id="not even the trainer's answers are numbers"),
        pytest.param(SWAPPED, None, None, "learner_auc", id="labels swapped, and the learner says so"),
        pytest.param(SWAPPED, None, CHAMPION, "file_auc", id="labels swapped, figures of another model"),
        pytest.param(PERMUTED, CHAMPION, CHAMPION, "golden_parity", id="features permuted by the export"),
        pytest.param(PERMUTED, None, CHAMPION, "file_log_loss", id="features permuted in the golden requests too"),
        pytest.param(CONSTANT, None, CHAMPION, "file_spread", id="constant"),
    ],
)
def test_a_wrong_model_stops(bench: Bench, net: Net, trained: Net | None, claimed: Net | None, check: str) -> None:
    assert check in failed(bench.judge(net, trained=trained, claimed=claimed))


def rewritten(folder: Path) -> None:
    """Bring the manifest's hashes in line with files that were changed on purpose."""
    old = manifests.read(folder)
    write_manifest(folder, old.metrics, seq=old.seq, parent=old.parent)


def truncate(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])
    rewritten(folder)


def narrower(folder: Path) -> None:
    spec = replace(SPEC, item_features=SPEC.item_features[:5])
    net = Net(weights=CHAMPION.weights[:5], spec=spec)
    (folder / "model.onnx").write_bytes(model_proto(net).SerializeToString())
    rewritten(folder)


def fewer_heads(folder: Path) -> None:
    spec = replace(SPEC, heads=("click", "cart"))
    net = Net(base=(-2.0, -3.0), spec=spec)  # type: ignore[arg-type]
    (folder / "model.onnx").write_bytes(model_proto(net).SerializeToString())
    rewritten(folder)


def too_new(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(model_proto(Net(ir_version=10)).SerializeToString())
    rewritten(folder)


def newer_operators(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(model_proto(Net(opset=18)).SerializeToString())
    rewritten(folder)


def outside(folder: Path) -> None:
    model = model_proto(Net())
    tensor = next(t for t in model.graph.initializer if t.name == "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "elsewhere.bin"
    (folder / "elsewhere.bin").write_bytes(b"\0" * 200)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    rewritten(folder)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        pytest.param(truncate, "readable", id="truncated"),
        pytest.param(narrower, "inputs", id="wrong shape of an input"),
        pytest.param(fewer_heads, "outputs", id="wrong shape of the output"),
        pytest.param(too_new, "ir_version", id="an IR that production refuses"),
        pytest.param(newer_operators, "opset", id="operators that production does not have"),
        pytest.param(outside, "no_external_data", id="weights outside the file"),
    ],
)
def test_a_wrong_file_stops(bench: Bench, change: Callable[[Path], None], check: str) -> None:
    assert check in failed(bench.judge(CHAMPION, change=change))


def test_a_slow_candidate_stops(bench: Bench) -> None:
    assert failed(bench.judge(Net(work=2600))) == {"latency_ms"}


def test_weights_an_hour_ahead_of_the_rows_stop(bench: Bench) -> None:
    verdict = bench.judge(CHAMPION, learned_up_to_us=3_601_000_000)
    assert failed(verdict) == {"rows_age_s"}


def test_rows_that_are_not_the_ones_learned_with_stop(bench: Bench) -> None:
    """The learner's figures are with its own rows; in the store lie others, as after an hour without pushes."""
    rng = np.random.default_rng(0)
    stale = SlotTables(SPEC.row_dim)
    for table, kind, count in ((stale.item, "item", 200), (stale.user, "user", 97)):
        values = rng.normal(scale=0.6, size=(count, SPEC.row_dim)).astype(np.float32)
        table.apply(Rows.of([f"{kind}-{k}" for k in range(count)], values, 1, 0))
    champion = replace(bench.champion, model=onnx_model(Net(rows=0.0), bench.folder.parent / "other"))
    verdict = replace(bench, champion=champion, rows=stale).judge(CHAMPION, claimed=CHAMPION)
    assert "file_log_loss" in failed(verdict)


def test_a_comparison_with_a_release_that_does_not_serve_counts_for_nothing(bench: Bench) -> None:
    assert "parent" in failed(bench.judge(CHAMPION, parent="r20250101t000000-1-1"))


def test_missing_data_never_promotes(bench: Bench) -> None:
    few = replace(bench, replay=Replay(100).snapshot())
    assert "replayed_impressions" in failed(few.judge(CHAMPION))


def test_before_anything_has_closed_the_file_alone_is_judged(bench: Bench) -> None:
    unknown = {"impressions": 0.0}
    assert bench.judge(CHAMPION, young=True, first=True, metrics=unknown).passed
    assert bench.judge(noisy(CHAMPION, 0.005, 1), young=True, metrics=unknown).passed
    assert "file_auc" in failed(bench.judge(SWAPPED, young=True, metrics=unknown))
    assert "learner_auc" in failed(bench.judge(CHAMPION, metrics=unknown))
    few = replace(bench, replay=Replay(100).snapshot())
    assert "replayed_impressions" in failed(few.judge(CHAMPION, young=True, first=True, metrics=unknown))


def test_a_learner_that_promises_too_many_clicks_stops(bench: Bench) -> None:
    claimed = figures(CHAMPION, CHAMPION, window(KEPT, LEARNER_SEED))
    claimed |= {"predicted_ctr": 1.5 * claimed["ctr"], "champion_predicted_ctr": claimed["ctr"]}
    assert failed(bench.judge(CHAMPION, metrics=claimed)) == {"learner_calibration"}


def test_a_new_feature_may_come_in(bench: Bench) -> None:
    more = replace(SPEC, item_features=(*SPEC.item_features, FeatureRef(99, "new", "item_stats")))
    net = Net(weights=np.append(CHAMPION.weights, np.float32(0)), spec=more)
    verdict = bench.judge(net, claimed=CHAMPION)
    assert verdict.passed, verdict.reason


def test_at_most_one_in_twenty_equal_candidates_stops(bench: Bench, tmp_path: Path) -> None:
    """Fifty models, each as far from the truth as the champion, the learner's figures from impressions of their own."""
    champion = noisy(CHAMPION, 0.01, 10_000)
    bench.champion = replace(bench.champion, model=onnx_model(champion, tmp_path / "other"))
    windows = [window(500, 100 + k) for k in range(5)]
    stopped = 0
    for seed in range(50):
        net = noisy(CHAMPION, 0.01, seed)
        metrics = figures(net, champion, windows[seed % 5])
        model = onnx_model(net, tmp_path / "candidate")
        one, other = bench.replay.score([model, bench.champion.model], SPEC, bench.rows)
        checks = gate.judge_learner(metrics, False, False, GateBounds())
        checks += gate.judge_replay(one, other, metrics, False, GateBounds())
        stopped += not Verdict(tuple(checks)).passed
    assert stopped <= 2


def test_figures_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(0)
    labels, one = rng.integers(0, 2, 300), rng.random(300)
    pairs = [(a, b) for a in one[labels == 1] for b in one[labels == 0]]
    assert scores.auc(labels, one) == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    draws = []
    other = np.clip(one + rng.normal(scale=0.05, size=300), 0, 1)
    groups = np.arange(300) // 3
    for _ in range(300):
        taken = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 100, 100)])
        draws.append(scores.auc(labels[taken], one[taken]) - scores.auc(labels[taken], other[taken]))
    found = scores.auc_difference(labels, one, other, groups)
    assert found.error == pytest.approx(np.std(draws), rel=0.25)


def test_a_truncated_file_is_reported_and_does_not_raise_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09nothing")
    with pytest.raises(Exception, match=r"model\.onnx"):
        onnx_file.inspect(tmp_path / "model.onnx")


def test_weights_that_learned_before_any_row_need_no_rows() -> None:
    early = gate.judge_rows(1_700_000_000_000_000, 0, 0, 0, GateBounds())
    assert all(check.passed for check in early)
    late = gate.judge_rows(1_700_000_000_000_000, 3, 0, 3, GateBounds())
    assert [check.name for check in late if not check.passed] == ["rows_age_s"]
