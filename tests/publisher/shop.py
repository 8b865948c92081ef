"""A publisher's release machine on a temporary store and a small Triton."""

from dataclasses import dataclass, replace
from pathlib import Path

from services.publisher.audit import Audit
from services.publisher.book import Keeper
from services.publisher.files import Disk
from services.publisher.fleet import Fleet
from services.publisher.outside import ReleasePolicy
from services.publisher.release import Releases
from services.publisher.shelf import Shelf
from services.publisher.store import ReleaseStore
from tests.publisher.exports import Net, export
from tests.publisher.fakes import SmallTriton, World

SECOND = 1_000_000


@dataclass
class Shop:
    """All parts, named."""

    root: Path
    releases: Releases
    store: ReleaseStore
    triton: SmallTriton
    world: World
    audit: Audit
    keeper: Keeper

    def offer(self, seq: int, net: Net | None = None, **more: object) -> str:
        """Put a candidate where the trainer puts it; its rows count as pushed."""
        self.keeper.change(lambda book: replace(book, pushed_seq=max(seq, book.pushed_seq)))
        parent = self.keeper.book.champion
        return export(self.store.exports, net or Net(), {}, seq=seq, second=seq, parent=parent, **more).name  # type: ignore[arg-type]

    def audited(self, decision: str) -> list[str]:
        """Releases of the audit entries of one kind."""
        return [entry["release"] for entry in self.audit.entries() if entry["decision"] == decision]


def open_shop(
    root: Path, policy: ReleasePolicy | None = None, disk: Disk | None = None, triton: SmallTriton | None = None
) -> Shop:
    """Start, or start again on what is there."""
    store = ReleaseStore(root, "main", "python", disk)
    triton = triton or SmallTriton(store.models)
    keeper = Keeper(root / "snapshots" / "publisher" / "book.json", "main")
    audit, world = Audit(root / "releases" / "audit.jsonl"), World()
    fleet = Fleet(lambda: ["one:8001"], lambda address: triton)
    releases = Releases(keeper, store, Shelf(store.releases), fleet, audit, world, policy or ReleasePolicy())
    releases.start(0)
    return Shop(root, releases, store, triton, world, audit, keeper)
