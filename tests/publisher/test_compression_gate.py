"""The gate of compression: what passes is staged and served, what does not leaves the candidate as it was exported."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.encode import NoRows
from services.publisher import manifest as manifests
from services.publisher import shelf
from services.publisher.compression.attempt import Attempt, Compression, attempt
from services.publisher.compression.judge import CompressionBounds
from services.publisher.compression.plan import parse
from services.publisher.manifest import GOLDEN, MODEL, Manifest
from services.publisher.onnx_file import FileBounds, OnnxModel
from services.publisher.replay import Replay, Snapshot
from tests.publisher.exports import SPEC, Net, export, golden_inputs, window
from tests.publisher.shop import SECOND, Shop, open_shop

NET = Net(work=64)
LAX = CompressionBounds(size=9, latency=1e9, auc=1, log_loss=99, error=1)
QUIET = CompressionBounds(latency=1e9)
"""As by default, but for time: that of other tests' machines says nothing."""


@pytest.fixture(scope="module")
def replay() -> Snapshot:
    kept = Replay(1_000)
    for closed in window(1_000, 2):
        kept.add(closed)
    return kept.snapshot()


def tried(folder: Path, plan: str, replay: Snapshot, bounds: CompressionBounds = QUIET) -> Attempt:
    asked = Compression(parse(plan), bounds)
    return attempt(folder, manifests.read(folder), asked, replay, NoRows(SPEC.row_dim), FileBounds())


def failed(found: Attempt) -> set[str]:
    return {check.name for check in found.verdict.failed}


def shop_with(root: Path, plan: str, replay: Snapshot, bounds: CompressionBounds = QUIET) -> Shop:
    shop = open_shop(root)

    def compress(manifest: Manifest) -> Attempt:
        return tried(shop.store.exports / manifest.release, plan, replay, bounds)

    shop.world.attempt = compress
    return shop


def audited(shop: Shop) -> list[dict[str, Any]]:
    return [entry for entry in shop.audit.entries() if "plan" in entry]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_smaller_file_that_scores_alike_passes(tmp_path: Path, replay: Snapshot) -> None:
    found = tried(export(tmp_path, NET, {"champion_auc": float("nan")}), "fp16", replay)
    assert found.verdict.passed, found.verdict.reason
    assert found.compressed is not None
    assert found.compressed.bytes < 0.6 * found.original.bytes
    assert abs(found.compressed.auc - found.original.auc) < 1e-3


@pytest.mark.parametrize(
    ("plan", "bounds", "check"),
    [
        pytest.param("prune(0.5)", QUIET, "compression_size", id="saves nothing"),
        pytest.param("prune(0.999)", replace(LAX, auc=0.001), "compression_auc", id="ruins the area"),
        pytest.param("prune(0.999)", replace(LAX, log_loss=0.002), "compression_log_loss", id="ruins the log-loss"),
        pytest.param("prune(0.999)", replace(LAX, error=0.05), "compression_error", id="scores differently"),
        pytest.param("fp16", replace(LAX, latency=1e-9), "compression_latency", id="is slow"),
        pytest.param("fp16", replace(LAX, impressions=1_001), "compression_impressions", id="too few impressions"),
    ],
)
def test_what_breaks_a_bound_does_not_pass(
    tmp_path: Path, replay: Snapshot, plan: str, bounds: CompressionBounds, check: str
) -> None:
    found = tried(export(tmp_path, NET, {}), plan, replay, bounds)
    assert failed(found) == {check}
    assert found.release is None


def test_a_file_that_cannot_be_compressed_is_no_error(tmp_path: Path, replay: Snapshot) -> None:
    net = Net(weights=np.full(6, np.nan, np.float32))
    found = tried(export(tmp_path, net, {}, trained=Net()), "low_rank(0.9)", replay, LAX)
    assert "low_rank(0.9)" in found.verdict.reason
    assert found.original.bytes > 0


def test_a_compressed_release_is_staged_with_true_hashes_and_its_own_golden_scores(
    tmp_path: Path, replay: Snapshot
) -> None:
    shop = shop_with(tmp_path, "int8_dynamic", replay)
    release = shop.offer(1, NET)
    exported = (shop.store.exports / release / MODEL).read_bytes()
    before = manifests.read(shop.store.exports / release)
    shop.releases.step(SECOND)
    folder = shop.store.folder(release)
    staged, data = shelf.opened(folder), (folder / MODEL).read_bytes()
    assert shop.world.routes[-1].champion == release
    shop.store.verify(folder, staged.manifest)
    assert data != exported
    assert (tmp_path / "triton" / release / "1" / MODEL).read_bytes() == data
    np.testing.assert_array_equal(staged.golden.scores, OnnxModel(data).run(golden_inputs(SPEC)))
    note = json.loads(staged.manifest.raw)["compression"]
    assert note["plan"] == "int8_dynamic"
    assert note["original_files"] == {name: before.files[name] for name in (MODEL, GOLDEN)}
    assert note["original_files"][MODEL] == digest(exported)
    assert (note["original"]["bytes"], note["compressed"]["bytes"]) == (len(exported), len(data))
    assert note["checks"]["compression_error"] > before.golden_tolerance  # and yet said in the manifest
    assert shop.releases.tend(mark=False) == []


def test_the_audit_has_the_figures_of_both_files(tmp_path: Path, replay: Snapshot) -> None:
    shop = shop_with(tmp_path, "fp16", replay)
    release = shop.offer(1, NET)
    shop.releases.step(SECOND)
    (entry,) = audited(shop)
    assert (entry["decision"], entry["release"], entry["plan"], entry["reason"]) == ("compressed", release, "fp16", "")
    for file in ("original", "compressed"):
        assert all(entry[file][name] > 0 for name in ("bytes", "gzip_bytes", "batch_ms", "auc", "log_loss"))


def test_where_a_way_ruins_the_area_the_original_is_served(tmp_path: Path, replay: Snapshot) -> None:
    shop = shop_with(tmp_path, "prune(0.999)", replay, replace(LAX, auc=0.001))
    release = shop.offer(1, NET)
    folder = shop.store.exports / release
    exported = {path.name: path.read_bytes() for path in folder.iterdir()}
    shop.releases.step(SECOND)
    assert shop.world.routes[-1].champion == release
    assert {path.name: path.read_bytes() for path in shop.store.folder(release).iterdir()} == exported
    (entry,) = audited(shop)
    assert entry["decision"] == "not_compressed"
    assert "compression_auc" in entry["reason"]
    assert entry["compressed"]["auc"] < entry["original"]["auc"] - 0.001


def test_where_triton_answers_otherwise_than_the_compressed_file_did_the_original_is_served(
    tmp_path: Path, replay: Snapshot
) -> None:
    shop = shop_with(tmp_path, "fp16", replay)
    compress = shop.world.attempt

    def wrong(manifest: Manifest) -> Attempt:
        found = compress(manifest)
        assert found is not None
        assert found.release is not None
        other = export(tmp_path / "other", Net(base=(0.0, 0.0, 0.0)), {})
        files = {**found.release.files, GOLDEN: (other / GOLDEN).read_bytes()}
        hashes = {name: digest(data) for name, data in files.items()}
        there = manifests.compressed(manifest, hashes, 1e-4, {})
        return replace(found, release=replace(found.release, manifest=there, files=files))

    shop.world.attempt = wrong
    release = shop.offer(1, NET)
    exported = (shop.store.exports / release / MODEL).read_bytes()
    shop.releases.step(SECOND)
    assert shop.world.routes[-1].champion == release
    assert (shop.store.folder(release) / MODEL).read_bytes() == exported
    (entry,) = audited(shop)
    assert entry["decision"] == "not_compressed"
    assert "off the golden scores" in entry["reason"]
    assert shop.releases.tend(mark=False) == []


def test_while_triton_is_away_a_candidate_is_compressed_once(tmp_path: Path, replay: Snapshot) -> None:
    shop, asked = shop_with(tmp_path, "fp16", replay), []
    compress = shop.world.attempt
    shop.world.attempt = lambda manifest: asked.append(manifest.release) or compress(manifest)  # type: ignore[func-returns-value]
    shop.triton.away = True
    release = shop.offer(1, NET)
    shop.releases.step(SECOND)
    shop.releases.step(3 * SECOND)
    shop.triton.away = False
    shop.releases.step(5 * SECOND)
    assert (shop.world.routes[-1].champion, asked) == (release, [release])
    assert [entry["decision"] for entry in audited(shop)] == ["compressed"]
