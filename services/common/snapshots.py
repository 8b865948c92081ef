"""Snapshots on disk: whole or not there, the newest valid one wins, the last three are kept.

A file is a 32-byte BLAKE2b digest followed by safetensors bytes. It is written beside its place, synced and
renamed; a torn or flipped file fails its digest and the one before it is taken.

Several workers may write the snapshots of one partition: an old owner that does not know yet that it is one.
State is a function of the log below its position, so whoever wrote it, the one with the highest position is right.
"""

import hashlib
import json
import logging
import os
import uuid
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from services.common.errors import CorruptState
from services.common.stage import Snapshot
from services.common.tensors import save as save_tensors

VERSION = 1
"""Readers take this version and the one before it."""

_DIGEST = 32

log = logging.getLogger(__name__)


def pack(snapshot: Snapshot) -> bytes:
    """Serialize a snapshot with its digest."""
    head = {"version": VERSION, "next_offset": snapshot.next_offset, "meta": snapshot.meta}
    # safetensors writes the memory as it lies: of a view with strides or a transposed one, other values.
    arrays = {name: np.asarray(array, order="C") for name, array in snapshot.arrays.items()}
    body: bytes = save_tensors(arrays, {"snapshot": json.dumps(head)})
    return hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def unpack(data: bytes) -> Snapshot:
    """Read a snapshot back; its arrays may be changed. Raises CorruptState when the digest or the version is wrong."""
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise CorruptState("snapshot: the digest does not match")
    try:
        length = int.from_bytes(body[:8], "little")
        head = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["snapshot"])
        if head["version"] not in (VERSION, VERSION - 1):
            raise CorruptState(f"snapshot: version {head['version']}, this reader takes {VERSION} and {VERSION - 1}")
        arrays = {name: np.require(array, requirements="W") for name, array in load_tensors(body).items()}
        return Snapshot(head["next_offset"], arrays, head["meta"])
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptState(f"snapshot: not readable: {error!r}") from error


class SnapshotStore:
    """The snapshots of one service, a folder for each topic partition."""

    def __init__(self, folder: Path, keep: int = 3, needed: bool = False) -> None:
        """`needed`: the log alone does not give the state, so a partition without a snapshot is a fault."""
        self.folder = folder
        self._keep = keep
        self.needed = needed

    def save(self, topic: str, partition: int, snapshot: Snapshot) -> Path:
        """Write one durably and drop the oldest beyond the ones kept. Raises OSError when the disk refuses."""
        folder = self.folder / f"{topic}-{partition}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{snapshot.next_offset:020d}.snapshot"
        write_durably(path, pack(snapshot))
        files = sorted(folder.glob("*.snapshot"))
        # What a killed writer left beside its place is dead once there are newer ones.
        halves = [half for half in folder.glob(".*.part") if half.name < f".{files[-self._keep :][0].name}"]
        for old in (*files[: -self._keep], *halves):
            old.unlink(missing_ok=True)
        return path

    def newest(self, topic: str, partition: int) -> Snapshot | None:
        """The newest one that reads back whole, or None. Raises CorruptState when there is none and it is needed."""
        for path in sorted((self.folder / f"{topic}-{partition}").glob("*.snapshot"), reverse=True):
            try:
                return unpack(path.read_bytes())
            except (CorruptState, OSError) as error:
                log.error("snapshot skipped", extra={"path": str(path), "error": str(error)})
        if self.needed:
            raise CorruptState(
                f"{self.folder}: no snapshot of {topic}-{partition} can be read, and since partitions were added the"
                " log alone does not give its state: restore the snapshots, and the log goes on from there"
            )
        return None


def write_durably(path: Path, data: bytes) -> None:
    """Put a file in place whole: write beside it, sync, rename, sync the folder. Raises OSError, leaving nothing."""
    # Not the process id: in containers every process is number 1, and two may share a volume.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
