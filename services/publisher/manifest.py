"""What a release says about itself: manifest.json, read and checked before anything else of it is believed."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.arms import RELEASE_ID, arm_of
from services.common.errors import CorruptState
from services.common.spec import ModelSpec

MANIFEST, MODEL, GOLDEN, RETRIEVAL = "manifest.json", "model.onnx", "golden.safetensors", "retrieval.safetensors"

REQUIRED_FILES = (MODEL, GOLDEN, RETRIEVAL)

_HASH = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Manifest:
    """A release's description, typed; `raw` is the text it came from."""

    release: str
    arm: str
    lineage: int
    epoch: int
    seq: int
    slot: str
    parent: str
    created_us: int
    learned_up_to_us: int
    positions: dict[str, int]
    spec: ModelSpec
    metrics: dict[str, float]
    checkpoint: str
    files: dict[str, str]
    """Name -> SHA-256 of each file of the release beside the manifest."""
    objective: dict[str, float]
    golden_tolerance: float
    raw: bytes


def is_release_id(text: str) -> bool:
    """True for `r<UTC time>-<lineage>-<seq>[-<arm>]`, so that a name from a file or a command is never a path.

    >>> is_release_id("r20260102t030405-1-7"), is_release_id("../secrets")
    (True, False)
    """
    return RELEASE_ID.fullmatch(text) is not None


def age_order(release: str) -> tuple[str, int, int]:
    """Sorts release ids from the oldest to the newest.

    >>> age_order("r20260102t030405-1-9") < age_order("r20260102t030405-1-10")
    True
    """
    match = RELEASE_ID.fullmatch(release)
    return (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)


def read(folder: Path) -> Manifest:
    """The manifest of a folder. Raises CorruptState when it is not one, or names another release than the folder."""
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise CorruptState(f"{folder.name}: {error.strerror}") from error
    found = parse(raw)
    if found.release != folder.name:
        raise CorruptState(f"{folder.name}: the manifest is of {found.release}")
    return found


def parse(raw: bytes) -> Manifest:
    """Read a manifest. Raises CorruptState naming what is wrong."""
    try:
        data = json.loads(raw)
        fields: dict[str, Any] = {name: kind(data[name]) for name, kind in _FIELDS.items()}
        found = Manifest(spec=ModelSpec.from_json(data["spec"]), raw=raw, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptState(f"manifest: {type(error).__name__}: {error}") from error
    _check(found)
    return found


def compressed(found: Manifest, files: Mapping[str, str], tolerance: float, note: Mapping[str, Any]) -> Manifest:
    """The manifest of the same release with other files: their hashes, the golden tolerance, and what was done."""
    data = json.loads(found.raw)
    data["files"] |= files
    data |= {"golden_tolerance": tolerance, "compression": note}
    return parse(json.dumps(data, indent=1).encode())


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _numbers(value: Any) -> dict[str, float]:
    return {_text(k): float("nan") if v is None else float(v) for k, v in value.items()}


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "release": _text,
    "arm": _text,
    "lineage": int,
    "epoch": int,
    "seq": int,
    "slot": _text,
    "parent": _text,
    "created_us": int,
    "learned_up_to_us": int,
    "positions": lambda value: {_text(k): int(v) for k, v in value.items()},
    "metrics": _numbers,
    "checkpoint": _text,
    "files": lambda value: {_text(k): _text(v) for k, v in value.items()},
    "objective": _numbers,
    "golden_tolerance": float,
}


def _check(found: Manifest) -> None:
    match = RELEASE_ID.fullmatch(found.release)
    if match is None:
        raise CorruptState(f"manifest: release {found.release!r} is not an id")
    if (int(match[2]), int(match[3])) != (found.lineage, found.seq):
        raise CorruptState(f"manifest: release {found.release} is not of lineage {found.lineage}, seq {found.seq}")
    if arm_of(found.release) != found.arm:
        raise CorruptState(f"manifest: release {found.release} is not of arm {found.arm}")
    if re.fullmatch("[a-z]", found.slot) is None:
        raise CorruptState(f"manifest: slot {found.slot!r} is not a letter")
    for name, digest in found.files.items():
        if _FILE.fullmatch(name) is None or _HASH.fullmatch(digest) is None:
            raise CorruptState(f"manifest: files: {name!r}")
    lacking = [name for name in REQUIRED_FILES if name not in found.files]
    if lacking:
        raise CorruptState(f"manifest: files: no {lacking[0]}")
