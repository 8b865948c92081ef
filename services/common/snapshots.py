"""Snapshots on disk: whole or not there, the newest valid one wins, the last three are kept.

A file is a 32-byte BLAKE2b digest followed by safetensors bytes. It is written beside its place, synced and
renamed; a torn or flipped file fails its digest and the one before it is taken.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from services.common.errors import CorruptState
from services.common.stage import Snapshot

VERSION = 1
"""Readers take this version and the one before it."""

log = logging.getLogger(__name__)


def pack(snapshot: Snapshot) -> bytes:
    """Serialize a snapshot with its digest."""
    head = {"version": VERSION, "next_offset": snapshot.next_offset, "meta": snapshot.meta}
    body: bytes = save_tensors(snapshot.arrays, {"snapshot": json.dumps(head)})
    return hashlib.blake2b(body, digest_size=32).digest() + body


def unpack(data: bytes) -> Snapshot:
    """Read a snapshot back. Raises CorruptState when the digest or the version is wrong."""
    digest, body = data[:32], data[32:]
    if hashlib.blake2b(body, digest_size=32).digest() != digest:
        raise CorruptState("snapshot: the digest does not match")
    length = int.from_bytes(body[:8], "little")
    head = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["snapshot"])
    if head["version"] not in (VERSION, VERSION - 1):
        raise CorruptState(f"snapshot: version {head['version']}, this reader takes {VERSION} and {VERSION - 1}")
    return Snapshot(head["next_offset"], load_tensors(body), head["meta"])


class SnapshotStore:
    """The snapshots of one service, a folder for each topic partition."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, topic: str, partition: int, snapshot: Snapshot) -> Path:
        """Write one durably and drop the oldest beyond the ones kept."""
        folder = self._folder / f"{topic}-{partition}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{snapshot.next_offset:020d}.snapshot"
        write_durably(path, pack(snapshot))
        for old in sorted(folder.glob("*.snapshot"))[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def newest(self, topic: str, partition: int) -> Snapshot | None:
        """The newest one that reads back whole, or None."""
        for path in sorted((self._folder / f"{topic}-{partition}").glob("*.snapshot"), reverse=True):
            try:
                return unpack(path.read_bytes())
            except (CorruptState, OSError, ValueError, KeyError) as error:
                log.warning("snapshot skipped", extra={"path": str(path), "error": str(error)})
        return None


def write_durably(path: Path, data: bytes) -> None:
    """Put a file in place whole: write beside it, sync, rename, sync the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
