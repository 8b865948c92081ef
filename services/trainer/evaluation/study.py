"""Several ways over one archive, compared list by list with the first."""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.archive import ArchiveSource
from services.trainer.evaluation import figures
from services.trainer.evaluation.figures import Figure, JudgedList
from services.trainer.evaluation.rehearsal import Outcome, Trial, rehearse
from services.trainer.evaluation.thresholds import Segments, by_segment

_MOST_SEGMENTS = 10
"""Of a kind, those with most lists."""

COMPARED = ("mrr", "ndcg_at_10", "log_loss", "group_auc")


@dataclass(frozen=True)
class Settings:
    """How a study is made."""

    lags: tuple[float, ...] = ()
    """Seconds of deploy lag to judge by beside the learner itself."""
    tail: float = 0.5
    """Share of the lists that is judged, the newest: the first ones say how a start goes, not how a way learns."""
    messages: int = 20
    """Of a batch."""
    thresholds: Segments = Segments()
    """How scores become a yes or a no."""
    tops: tuple[int, ...] = ()
    """First places of which NDCG and recall are told, beside ten and five."""


class Study:
    """Results by trial in one JSON file, written after each: a study that was broken off goes on where it was."""

    def __init__(self, path: Path, source: ArchiveSource, settings: Settings) -> None:
        self._path, self._source, self._settings = path, source, settings
        self.results: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.results = json.loads(path.read_text())["results"]

    def run(self, trials: Sequence[Trial], progress: Callable[[str, int], None]) -> None:
        """Try what has no result yet under these settings; the first trial is what others are compared with."""
        base: Mapping[str, figures.Floats] | None = None
        for trial in trials:
            kept = self._lists_of(trial)
            if self.results.get(trial.name, {}).get("key") == self._key(trial) and kept is not None:
                base = base or kept
                continue
            outcome = rehearse(
                trial, self._source, self._source.spec, self._settings.lags, partial(progress, trial.name)
            )
            tail = self._tail(outcome.lists)
            lists = figures.table(tail, self._settings.tops)
            base = base or lists
            self.results[trial.name] = {"key": self._key(trial), **self._described(outcome, tail, lists, base)}
            np.savez_compressed(self._file_of(trial), **dict(lists))  # type: ignore[arg-type]
            self.write()

    def write(self) -> None:
        """Write what there is."""
        machine = {"python": platform.python_version(), "torch": str(torch.__version__), "machine": platform.machine()}
        body = {"machine": machine, "settings": asdict(self._settings), "results": self.results}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(body, indent=1))

    def _described(
        self,
        outcome: Outcome,
        tail: Sequence[JudgedList],
        lists: Mapping[str, figures.Floats],
        base: Mapping[str, figures.Floats],
    ) -> dict[str, Any]:
        found: dict[str, Any] = {name: _plain(figures.mean(values)) for name, values in lists.items()}
        found["auc"] = _plain(figures.pooled_auc(tail))
        threshold, decided = figures.thresholded(tail)
        found |= {name: _number(figure.value) for name, figure in decided.items()} | {"threshold": _number(threshold)}
        found["intervals"] = {name: [_number(f.lower), _number(f.upper)] for name, f in decided.items()}
        rated = outcome.ratings[int(len(outcome.ratings) * (1 - self._settings.tail)) :]
        found |= {name: _plain(figure) for name, figure in figures.of_ratings(rated).items()}
        for name in COMPARED:
            same = len(lists[name]) == len(base[name])
            found[f"{name}_difference"] = _plain(figures.mean(lists[name] - base[name])) if same else None
        found["thresholds"] = by_segment(tail, self._settings.thresholds)
        found["slices"] = dict(_slices(tail))
        found["late"] = {str(s): _late(self._tail(judged)) for s, judged in outcome.late.items()}
        found |= pictures(outcome.lists, tail)
        return found | {
            "forgetting": [[_number(x) for x in row] for row in outcome.forgetting],
            "backward_transfer": _number(outcome.backward_transfer),
            "shopper": outcome.shopper,
            "settings": outcome.trial.changes,
            "learns": outcome.trial.learns,
            "lists": len(tail),
            "releases": outcome.releases,
            "examples": outcome.examples,
            "seconds_per_1000": 1000 * outcome.learn_seconds / max(1, outcome.examples),
            "release_seconds": outcome.release_seconds / max(1, outcome.releases),
            "peak_mib": outcome.peak_mib,
        }

    def _tail(self, lists: Sequence[JudgedList]) -> Sequence[JudgedList]:
        return lists[int(len(lists) * (1 - self._settings.tail)) :]

    def _key(self, trial: Trial) -> str:
        settings = asdict(self._settings)
        for name, usual in (("thresholds", Segments()), ("tops", ())):
            if getattr(self._settings, name) == usual:
                del settings[name]  # what was tried before there were any need not be tried again
        body = json.dumps([trial.changes, trial.learns, settings, self._source.messages], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    def _file_of(self, trial: Trial) -> Path:
        folder = self._path.with_suffix(".lists")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._key(trial)}.npz"

    def _lists_of(self, trial: Trial) -> Mapping[str, figures.Floats] | None:
        path = self._file_of(trial)
        return dict(np.load(path)) if path.exists() else None


def _late(lists: Sequence[JudgedList]) -> dict[str, Any]:
    return {"auc": _plain(figures.pooled_auc(lists)), "mrr": _plain(figures.mean(figures.table(lists)["mrr"]))}


def _slices(lists: Sequence[JudgedList]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lists of new shoppers, and lists where something new was clicked, beside the others; then by segment."""
    parts = {
        "new_users": [judged for judged in lists if judged.new_user],
        "known_users": [judged for judged in lists if not judged.new_user],
        "new_items": [judged for judged in lists if bool((judged.clicks & judged.new_items).any())],
        "known_items": [judged for judged in lists if bool((judged.clicks & ~judged.new_items).any())],
    }
    for kind in ("placement", "device"):
        for value, _ in Counter(getattr(judged, kind) for judged in lists).most_common(_MOST_SEGMENTS):
            if value:
                parts[f"{kind}={value}"] = [judged for judged in lists if getattr(judged, kind) == value]
    for name, chosen in parts.items():
        found = figures.table(chosen)
        told = {figure: _plain(figures.mean(found[figure])) for figure in ("mrr", "group_auc", "log_loss")}
        yield name, told | {"auc": _plain(figures.pooled_auc(chosen)), "lists": len(chosen)}


def pictures(lists: Sequence[JudgedList], tail: Sequence[JudgedList], points: int = 40) -> dict[str, Any]:
    """What the report draws: the curve over all lists; calibration and scores over those that are judged."""
    found = figures.table(lists)
    parts = np.array_split(np.arange(len(lists)), points) if lists else []
    curve = {name: [_number(_mean(found[name][part])) for part in parts] for name in ("mrr", "log_loss")}
    labels, flat = figures.flattened(tail)
    bins = np.clip(figures.log_odds(flat) + 8, 0, 11).astype(int)
    calibration = [
        [float(flat[bins == k].mean()), float(labels[bins == k].mean()), int((bins == k).sum())]
        for k in range(12)
        if (bins == k).any()
    ]
    histogram = {
        name: np.bincount(bins[chosen], minlength=12).tolist()
        for name, chosen in (("clicked", labels), ("not", ~labels))
    }
    return {"curve": curve, "calibration_bins": calibration, "scores": histogram}


def _mean(values: figures.Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _number(value: float) -> float | None:
    return None if value != value else value


def _plain(figure: Figure) -> dict[str, float | None]:
    return {k: None if v != v else v for k, v in asdict(figure).items()}
