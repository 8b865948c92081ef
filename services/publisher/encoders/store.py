"""Folders of encoders, or of rerankers, in the store: from `incoming` to `releases`, and laid out for Triton.

Each step is one rename.
"""

from pathlib import Path

from services.common.errors import CorruptState
from services.publisher.files import Disk
from services.publisher.manifest import MODEL
from services.publisher.staging import ModelFolders, Staging
from services.text import categories, names
from services.text import folder as folders
from services.text.categories import FILE
from services.text.folder import Encoder

MOST_TEXTS = 64
"""Texts that Triton answers at once."""
_FILES = ("encoder.json", "tokenizer.json", MODEL, "golden.safetensors")


class EncoderStore:
    """`backend`: Triton's that will run model.onnx; `kind`: KIND_CPU or KIND_GPU; `of`: kind of model."""

    def __init__(self, root: Path, backend: str, disk: Disk, kind: str = "KIND_CPU", of: str = folders.ENCODER) -> None:
        self._disk, self._of = disk, of
        self._staging = Staging(names.home(root, of) / "staging", disk)
        self._laid_out = ModelFolders(root / "triton", self._staging, disk, backend, kind)
        self.incoming, self.kept = names.incoming(root, of), names.kept(root, of)

    @property
    def models(self) -> Path:
        """Triton's folder."""
        return self._laid_out.folder

    def prepare(self) -> None:
        """Make the folders, and throw away what a crash left half-made."""
        self._staging.prepare(self.incoming, self.kept, self.models)

    def candidates(self) -> list[str]:
        """Encoders that wait to be judged, oldest first."""
        named = names.IDS[self._of]
        return sorted(p.name for p in self.incoming.iterdir() if named.fullmatch(p.name) and p.is_dir())

    def candidate(self, encoder: str) -> Encoder:
        """What a candidate is. Raises CorruptState when its folder is not whole or has the name of another one."""
        found = folders.read(self.incoming / encoder)
        if not encoder.endswith(found.source[:8]) or set(_FILES) - {"encoder.json"} - set(found.files):
            raise CorruptState(f"{encoder}: encoder.json is of another encoder, or names too few files")
        if found.kind != self._of:
            raise CorruptState(f"{encoder}: encoder.json is of kind {found.kind}, not {self._of}")
        categories.read(self.incoming / encoder, found)
        return found

    def stage(self, encoder: str) -> None:
        """Copy a candidate to its place and lay it out for Triton; doing it again changes nothing."""
        if not (self.kept / encoder).exists():
            staged = self._staging.fresh(encoder)
            found = folders.read(self.incoming / encoder, check=False)
            for name in (*_FILES, *({FILE} & found.files.keys())):
                self._disk.copy(self.incoming / encoder / name, staged / name)
            folders.read(staged)  # the copy, once more
            self._staging.name(staged, self.kept / encoder)
        self.stage_model(encoder)

    def stage_model(self, encoder: str) -> None:
        """Lay a kept encoder out for Triton; doing it again changes nothing."""
        self._laid_out.lay_out(encoder, self.kept / encoder / MODEL, together=MOST_TEXTS)

    def drop_candidate(self, encoder: str) -> None:
        """Remove a decided candidate."""
        self._staging.remove(self.incoming / encoder)

    def drop(self, encoder: str) -> None:
        """Remove an encoder and its model."""
        self._laid_out.remove(encoder)
        self._staging.remove(self.kept / encoder)

    def listed(self) -> list[str]:
        """Encoders that were let in and are there, oldest first."""
        return sorted(path.name for path in self.kept.iterdir() if names.IDS[self._of].fullmatch(path.name))
