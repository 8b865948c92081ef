"""Folders of releases in the model store: candidates in, immutable releases out, nothing half-made in between.

A release gets its name by one rename at the very end; everything before lies under `staging/`, which is emptied at
start. So whatever is found under `releases/` or `triton/` is whole, and never changes again.
"""

from collections.abc import Mapping
from pathlib import Path

from services.common.arms import arm_of, suffix
from services.common.errors import Conflict, CorruptState
from services.publisher import manifest as manifests
from services.publisher.files import Disk, sha256
from services.publisher.manifest import MANIFEST, MODEL, Manifest
from services.publisher.staging import ModelFolders, Staging


class ReleaseStore:
    """`backend`: Triton's backend that will run model.onnx, python or onnxruntime; `kind`: KIND_CPU or KIND_GPU."""

    def __init__(self, root: Path, arm: str, backend: str, disk: Disk | None = None, *, kind: str = "KIND_CPU") -> None:
        self._disk = disk or Disk()
        self._arm = arm
        self._staging = Staging(root / f"staging{suffix(arm)}", self._disk)
        self._laid_out = ModelFolders(root / "triton", self._staging, self._disk, backend, kind)
        self.exports = root / "arms" / arm / "exports"
        self.releases = root / "releases"

    @property
    def models(self) -> Path:
        """Triton's folder."""
        return self._laid_out.folder

    def prepare(self) -> None:
        """Make the folders, and throw away what a crash left half-made."""
        self._staging.prepare(self.exports, self.releases, self.models)

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
        staged = self._staging.fresh(manifest.release)
        for name in sorted(manifest.files):
            if instead is not None and name in instead:
                self._disk.write(staged / name, instead[name])
            else:
                self._disk.copy(self.exports / manifest.release / name, staged / name)
        self.verify(staged, manifest)
        self._disk.write(staged / MANIFEST, manifest.raw)
        self._staging.name(staged, target)
        return target

    def stage_model(self, release: str) -> Path:
        """Lay out a kept release for Triton under its own model name; doing it again changes nothing."""
        return self._laid_out.lay_out(release, self.folder(release) / MODEL)

    def drop_model(self, release: str) -> None:
        """Take a release from Triton's folder, so that nothing can load it again."""
        self._laid_out.remove(release)

    def drop(self, release: str) -> None:
        """Remove a kept release and its model."""
        self.drop_model(release)
        self._staging.remove(self.folder(release))

    def drop_candidate(self, release: str) -> None:
        """Remove a decided candidate."""
        self._staging.remove(self.exports / release)
