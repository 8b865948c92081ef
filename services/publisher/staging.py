"""Folders that come and go by one rename each: what has its final name is whole, and is never seen half-removed."""

import shutil
from pathlib import Path

from services.publisher.files import Disk
from services.publisher.manifest import MODEL
from services.publisher.triton_backend import MODEL_PY, config_pbtxt


class Staging:
    """Where folders lie before they have their name, and after they had it. Emptied at start."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk

    def prepare(self, *others: Path) -> None:
        """Throw away what a crash left half-made; make this folder and those that will hold the named ones."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for folder in (self._folder, *others):
            folder.mkdir(parents=True, exist_ok=True)

    def fresh(self, name: str) -> Path:
        """An empty folder to fill."""
        folder = self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def name(self, staged: Path, target: Path) -> None:
        """Give a filled folder its final name."""
        self._disk.sync_folder(staged)
        self._disk.rename(staged, target)

    def remove(self, folder: Path) -> None:
        """Take a folder away; nothing happens where it is not."""
        if folder.is_dir():
            gone = self._folder / f"gone-{folder.parent.name}-{folder.name}"
            shutil.rmtree(gone, ignore_errors=True)
            self._disk.rename(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)


class ModelFolders:
    """Models laid out for Triton. `backend`: Triton's that runs model.onnx; `kind`: KIND_CPU or KIND_GPU."""

    def __init__(self, folder: Path, staging: Staging, disk: Disk, backend: str, kind: str = "KIND_CPU") -> None:
        self.folder, self._staging, self._disk = folder, staging, disk
        self._backend, self._kind = backend, kind

    def lay_out(self, name: str, source: Path, together: int = 0) -> Path:
        """Put an ONNX file where Triton finds it as the model `name`; doing it again changes nothing.

        `together`: rows of several requests that are answered at once (`config_pbtxt`).
        """
        target = self.folder / name
        if target.exists():
            return target
        staged = self._staging.fresh(f"{name}-triton")
        (staged / "1").mkdir()
        self._disk.copy(source, staged / "1" / MODEL)
        if self._backend == "python":
            self._disk.copy(MODEL_PY, staged / "1" / MODEL_PY.name)
        config = config_pbtxt(name, source, self._backend, self._kind, together=together)
        self._disk.write(staged / "config.pbtxt", config.encode())
        self._disk.sync_folder(staged / "1")
        self._staging.name(staged, target)
        return target

    def remove(self, name: str) -> None:
        """Take a model from Triton's folder, so that nothing can load it again."""
        self._staging.remove(self.folder / name)
