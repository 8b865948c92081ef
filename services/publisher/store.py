"""Folders of releases in the model store: candidates in, immutable releases out, nothing half-made in between.

A release gets its name by one rename at the very end; everything before lies under `staging/`, which is emptied at
start. So whatever is found under `releases/` or `triton/` is whole, and never changes again.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from services.common.arms import arm_of, suffix
from services.common.errors import Conflict, CorruptState
from services.publisher import manifest as manifests
from services.publisher.files import Disk, sha256
from services.publisher.manifest import MANIFEST, MODEL, Manifest
from services.publisher.triton_backend import MODEL_PY, config_pbtxt


class ReleaseStore:
    """`backend`: Triton's backend that will run model.onnx, python or onnxruntime; `kind`: KIND_CPU or KIND_GPU."""

    def __init__(self, root: Path, arm: str, backend: str, disk: Disk | None = None, *, kind: str = "KIND_CPU") -> None:
        self._disk = disk or Disk()
        self._backend, self._kind = backend, kind
        self._arm = arm
        self.exports = root / "arms" / arm / "exports"
        self.releases = root / "releases"
        self.models = root / "triton"
        self._staging = root / f"staging{suffix(arm)}"

    def prepare(self) -> None:
        """Make the folders, and throw away what a crash left half-made."""
        shutil.rmtree(self._staging, ignore_errors=True)
        for folder in (self.exports, self.releases, self.models, self._staging):
            folder.mkdir(parents=True, exist_ok=True)

    def candidates(self) -> list[str]:
        """Exported releases whose manifest is there, oldest first."""
        found = (p for p in self.exports.iterdir() if manifests.is_release_id(p.name) and (p / MANIFEST).is_file())
        return sorted((path.name for path in found), key=manifests.age_order)

    def kept(self) -> list[str]:
        """Releases of this arm on disk, oldest first."""
        found = (p.name for p in self.releases.iterdir() if arm_of(p.name) == self._arm and p.is_dir())
        return sorted(found, key=manifests.age_order)

    def folder(self, release: str) -> Path:
        """Folder of a kept release."""
        return self.releases / release

    def verify(self, folder: Path, manifest: Manifest) -> None:
        """Compare every file's hash with the manifest. Raises CorruptState naming the first that differs."""
        for name, digest in manifest.files.items():
            path = folder / name
            if not path.is_file() or path.is_symlink():
                raise CorruptState(f"{manifest.release}: {name} is not there")
            if sha256(path) != digest:
                raise CorruptState(f"{manifest.release}: {name} is not the file that its manifest names")

    def stage(self, manifest: Manifest, instead: Mapping[str, bytes] | None = None) -> Path:
        """Copy a candidate to its immutable place; doing it again changes nothing.

        `instead`: files that are not the candidate's own, by name; the manifest's hashes are of what is staged.
        Raises CorruptState when the copy does not match the manifest, Conflict when another release has the name.
        """
        target = self.folder(manifest.release)
        if target.exists():
            if (target / MANIFEST).read_bytes() != manifest.raw:
                raise Conflict(f"{manifest.release} exists and is another one")
            return target
        staged = self._fresh(manifest.release)
        for name in sorted(manifest.files):
            if instead is not None and name in instead:
                self._disk.write(staged / name, instead[name])
            else:
                self._disk.copy(self.exports / manifest.release / name, staged / name)
        self.verify(staged, manifest)
        self._disk.write(staged / MANIFEST, manifest.raw)
        self._disk.sync_folder(staged)
        self._disk.rename(staged, target)
        return target

    def stage_model(self, release: str) -> Path:
        """Lay out a kept release for Triton under its own model name; doing it again changes nothing."""
        target = self.models / release
        if target.exists():
            return target
        source = self.folder(release) / MODEL
        staged = self._fresh(f"{release}-triton")
        (staged / "1").mkdir()
        self._disk.copy(source, staged / "1" / MODEL)
        if self._backend == "python":
            self._disk.copy(MODEL_PY, staged / "1" / MODEL_PY.name)
        self._disk.write(staged / "config.pbtxt", config_pbtxt(release, source, self._backend, self._kind).encode())
        self._disk.sync_folder(staged / "1")
        self._disk.sync_folder(staged)
        self._disk.rename(staged, target)
        return target

    def drop_model(self, release: str) -> None:
        """Take a release from Triton's folder, so that nothing can load it again."""
        self._drop(self.models / release)

    def drop(self, release: str) -> None:
        """Remove a kept release and its model."""
        self.drop_model(release)
        self._drop(self.folder(release))

    def drop_candidate(self, release: str) -> None:
        """Remove a decided candidate."""
        self._drop(self.exports / release)

    def _drop(self, folder: Path) -> None:
        if folder.is_dir():
            gone = self._staging / f"gone-{folder.parent.name}-{folder.name}"
            shutil.rmtree(gone, ignore_errors=True)
            self._disk.rename(folder, gone)  # never seen half-removed
            shutil.rmtree(gone, ignore_errors=True)

    def _fresh(self, name: str) -> Path:
        folder = self._staging / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
