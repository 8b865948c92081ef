"""Folders of encoders in the store: from `incoming` to `releases`, and laid out for Triton; each by one rename."""

import shutil
from pathlib import Path

from services.common.errors import CorruptState
from services.publisher.files import Disk
from services.publisher.triton_backend import MODEL_PY, config_pbtxt
from services.text import categories, names
from services.text import folder as folders
from services.text.categories import FILE
from services.text.folder import Encoder

MODEL = "model.onnx"
MOST_TEXTS = 64
"""Texts that Triton answers at once."""
_FILES = ("encoder.json", "tokenizer.json", MODEL, "golden.safetensors")


class EncoderStore:
    """`backend`: Triton's that will run model.onnx; `kind`: KIND_CPU or KIND_GPU."""

    def __init__(self, root: Path, backend: str, disk: Disk, kind: str = "KIND_CPU") -> None:
        self._disk, self._backend, self._kind = disk, backend, kind
        self.incoming, self.kept, self.models = names.incoming(root), names.kept(root), root / "triton"
        self._staging = root / "encoders" / "staging"

    def prepare(self) -> None:
        """Make the folders, and throw away what a crash left half-made."""
        shutil.rmtree(self._staging, ignore_errors=True)
        for folder in (self.incoming, self.kept, self.models, self._staging):
            folder.mkdir(parents=True, exist_ok=True)

    def candidates(self) -> list[str]:
        """Encoders that wait to be judged, oldest first."""
        return sorted(p.name for p in self.incoming.iterdir() if names.ENCODER_ID.fullmatch(p.name) and p.is_dir())

    def candidate(self, encoder: str) -> Encoder:
        """What a candidate is. Raises CorruptState when its folder is not whole or has the name of another one."""
        found = folders.read(self.incoming / encoder)
        if not encoder.endswith(found.source[:8]) or set(_FILES) - {"encoder.json"} - set(found.files):
            raise CorruptState(f"{encoder}: encoder.json is of another encoder, or names too few files")
        categories.read(self.incoming / encoder, found)
        return found

    def stage(self, encoder: str) -> None:
        """Copy a candidate to its place and lay it out for Triton; doing it again changes nothing."""
        if not (self.kept / encoder).exists():
            staged = self._fresh(encoder)
            found = folders.read(self.incoming / encoder, check=False)
            for name in (*_FILES, *({FILE} & found.files.keys())):
                self._disk.copy(self.incoming / encoder / name, staged / name)
            folders.read(staged)  # the copy, once more
            self._disk.sync_folder(staged)
            self._disk.rename(staged, self.kept / encoder)
        self.stage_model(encoder)

    def stage_model(self, encoder: str) -> None:
        """Lay a kept encoder out for Triton; doing it again changes nothing."""
        target, source = self.models / encoder, self.kept / encoder / MODEL
        if target.exists():
            return
        staged = self._fresh(f"{encoder}-triton")
        (staged / "1").mkdir()
        self._disk.copy(source, staged / "1" / MODEL)
        if self._backend == "python":
            self._disk.copy(MODEL_PY, staged / "1" / MODEL_PY.name)
        config = config_pbtxt(encoder, source, self._backend, self._kind, together=MOST_TEXTS)
        self._disk.write(staged / "config.pbtxt", config.encode())
        self._disk.sync_folder(staged / "1")
        self._disk.sync_folder(staged)
        self._disk.rename(staged, target)

    def drop_candidate(self, encoder: str) -> None:
        """Remove a decided candidate."""
        self._drop(self.incoming / encoder)

    def drop(self, encoder: str) -> None:
        """Remove an encoder and its model."""
        self._drop(self.models / encoder)
        self._drop(self.kept / encoder)

    def listed(self) -> list[str]:
        """Encoders that were let in and are there, oldest first."""
        return sorted(path.name for path in self.kept.iterdir() if names.ENCODER_ID.fullmatch(path.name))

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
