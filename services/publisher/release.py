"""The way of a release: candidate, judged, staged, loaded everywhere, warmed, routed, watched, drained, retired.

Each step leaves the serving release alone until the one after it has succeeded, and the book is changed once, at the
end: a crash or a failure anywhere before changes nothing. Routes follow the book: whatever it says is published until
the broker has acknowledged it.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from freshrank.v1.models_pb2 import Route

from services.common.arms import arm_of
from services.common.errors import Conflict, CorruptState, FreshrankError, NotFound, PermanentError, TemporaryError
from services.publisher import manifest as manifests
from services.publisher.audit import Audit, before_and_after
from services.publisher.book import Book, Entry, Keeper, State, Switches, Undo, held, promoted, rolling_back
from services.publisher.checks import Verdict
from services.publisher.compression.attempt import Attempt
from services.publisher.fleet import Fleet
from services.publisher.golden import Expected
from services.publisher.manifest import Manifest
from services.publisher.outside import Outside, ReleasePolicy
from services.publisher.routes import route_of
from services.publisher.shelf import Shelf
from services.publisher.store import ReleaseStore

logger = logging.getLogger(__name__)

_RETRY_US = 1_000_000
"""A candidate that could not be decided on rests so long: judging costs a second of a core."""

_TIDY_US = 10_000_000
"""Between two looks for models that servers should not have."""


class Releases:
    """One arm's releases. Not for several threads: one loop calls `step` and the commands."""

    def __init__(
        self,
        keeper: Keeper,
        store: ReleaseStore,
        shelf: Shelf,
        fleet: Fleet,
        audit: Audit,
        outside: Outside,
        policy: ReleasePolicy,
    ) -> None:
        self._keeper, self._store, self._shelf, self._fleet = keeper, store, shelf, fleet
        self._audit, self._outside, self._policy = audit, outside, policy
        self._draining: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._tried: dict[str, Attempt | None] = {}
        """What came of compressing candidates that are still being decided on."""
        self._retry_us = self._tidied_us = 0
        self._published: Route | None = None

    @property
    def arm(self) -> str:
        """Whose releases these are."""
        return self.book.arm

    @property
    def book(self) -> Book:
        """The book as it is."""
        return self._keeper.book

    def start(self, now_us: int) -> None:
        """Clear what a crash left, and say again what the book says."""
        self._store.prepare()
        self._outside.tell_trainer(self.book)
        for release in self._store.kept():
            if not self.book.knows(release):
                self._store.drop(release)  # staged, then the crash: it is still a candidate and comes again

    def step(self, now_us: int, judging: bool = True) -> None:
        """Do what is due: say the route, decide on the newest candidate, drain, collect.

        `judging`: whether there is what candidates are judged by; else they wait.
        """
        self.sync(now_us)
        if judging and not self.book.switches.releases and self.book.undo is None:
            self._consider(now_us)
        self._drain(now_us)
        self._tidy(now_us)

    def say_again(self) -> None:
        """Publish the route once more with the next step: another record lies over it."""
        self._published = None

    def sync(self, now_us: int) -> None:
        """Publish the route when it is not what was last acknowledged, and keep control.json in step."""
        self._outside.tell_trainer(self.book)
        route = route_of(self.book, self._policy.watch_share, sorted(self.wanted()), self._fleet.placed, 0)
        if route != self._published:
            stamped = Route()
            stamped.CopyFrom(route)
            stamped.updated_us = now_us
            self._outside.publish(stamped)
            self._published = route

    def wanted(self) -> set[str]:
        """Releases that Triton servers may have loaded: those they must have, and those that drain."""
        return self._serving() | set(self._draining)

    def tend(self, mark: bool, besides: Mapping[str, Expected] | None = None) -> list[str]:
        """Bring every Triton server to what it must have; returns a release for each one that was loaded anew.

        `mark`: tell readiness probes; `besides`: models that are not releases. May be called by another thread than
        `step`.
        """
        wanted: dict[str, Expected] = {}
        for name in sorted(self._serving()):
            try:
                self._store.stage_model(name)
                wanted[name] = self._shelf.get(name).golden
            except (PermanentError, OSError) as error:  # just being collected, or lost with the disk
                logger.error("release cannot be read", extra={"release": name, "error": str(error)})
        return self._fleet.tend(wanted, mark, besides)

    def _serving(self) -> set[str]:
        book = self.book
        held = [entry.release for entry in book.of(State.HELD)]
        return {name for name in (book.champion, book.previous, *held) if name}

    def promote(self, release: str, actor: str, now_us: int) -> None:
        """Route to a held release because a person says so. Raises Conflict for any that is not held."""
        entry = self.book.entry(release)
        if entry.state != State.HELD:
            raise Conflict(f"{release} is {entry.state}; only a held release can be promoted")
        if (entry.lineage, entry.epoch) != (self.book.learning.lineage, self.book.learning.epoch):
            raise Conflict(f"{release} is of lineage {entry.lineage}, which is not the serving one")
        self._load(release)
        self._route(entry, f"promoted by {actor or 'a person'}", actor, now_us)

    def rollback(self, release: str, actor: str, reason: str, now_us: int, verdict: Verdict | None = None) -> None:
        """Back to `release`, or to the one before the champion when empty.

        Raises NotFound when there is none to go back to, TemporaryError when it could not be loaded: nothing has
        changed then.
        """
        target = self.book.entry(release) if release else self._before()
        if target.release not in self._store.kept() or not target.can_return:
            raise NotFound(f"{target.release} is {target.state} and cannot be gone back to")
        self._load(target.release)
        bad = self.book.champion
        undo = Undo(target.release, bad, target.row_seq, target.epoch, actor, reason)
        figures = before_and_after(self.book.entry(bad).metrics) if self.book.knows(bad) else {}
        checks = verdict.to_json() if verdict else []
        self._audit.add(
            now_us, "rolled_back", bad, target=target.release, actor=actor, reason=reason, checks=checks, **figures
        )
        old = self.wanted()
        self._keeper.change(lambda book: rolling_back(book, undo, now_us))
        self._outside.decided("rolled_back", 0.0)
        self._leave(old, now_us)
        self.sync(now_us)

    def freeze(self, switches: Switches, now_us: int) -> None:
        """Turn the freeze switch; letting rows go again also ends a stop of the row gate."""
        self._audit.add(
            now_us, "frozen", rows=switches.rows, releases=switches.releases, learning=switches.learning,
            actor=switches.actor, reason=switches.reason,
        )  # fmt: skip
        self._keeper.change(
            lambda book: replace(book, switches=switches, stopped=book.stopped if switches.rows else "")
        )
        self.sync(now_us)

    def _consider(self, now_us: int) -> None:
        waiting = [name for name in self._store.candidates() if not self._settled(name)]
        for older in waiting[:-1]:
            self._refuse(older, "superseded by a newer candidate", now_us)
        if not waiting:
            return
        if now_us < self._retry_us:
            return
        try:
            self._decide(waiting[-1], now_us)
        except (TemporaryError, OSError) as error:  # such as a full disk: the champion serves on, and so do its rows
            logger.warning("candidate waits", extra={"release": waiting[-1], "error": str(error)})
            self._retry_us = now_us + _RETRY_US
        except PermanentError as error:
            self._undo(waiting[-1])
            self._refuse(waiting[-1], str(error), now_us)

    def _settled(self, release: str) -> bool:
        if self.book.knows(release):
            self._store.drop_candidate(release)
            return True
        return False

    def _decide(self, release: str, now_us: int) -> None:
        folder = self._store.exports / release
        manifest = manifests.read(folder)
        self._store.verify(folder, manifest)
        lane = self.book.learning
        if (manifest.arm, manifest.lineage, manifest.epoch) != (self.book.arm, lane.lineage, lane.epoch):
            raise CorruptState(f"of lineage {manifest.lineage}, epoch {manifest.epoch}: not the one that learns now")
        row_seq = self._outside.row_seq(manifest)
        if self._rows_on_their_way(release, row_seq, now_us):
            return
        verdict = self._outside.judge(manifest, row_seq)
        if not verdict.passed:
            self._refuse(release, verdict.reason, now_us, verdict, manifest)
            return
        self._put_up(manifest, now_us)
        self._accept(Entry.of(manifest, row_seq, State.HELD, "waits for a person", now_us), verdict, now_us)

    def _rows_on_their_way(self, release: str, row_seq: int, now_us: int) -> bool:
        since = self._seen.setdefault(release, now_us)
        behind = self.book.pushed_seq < row_seq and not self.book.stopped
        return behind and now_us - since < self._policy.rows_wait_s * 1e6

    def _put_up(self, manifest: Manifest, now_us: int) -> None:
        """Stage and load: the compressed file where one has passed and Triton takes it, else the one exported."""
        release = manifest.release
        if release not in self._tried:  # a candidate that comes again, because Triton was away, is not compressed again
            self._tried[release] = self._outside.compress(manifest)
        tried = self._tried[release]
        if tried is not None and tried.release is not None:
            try:
                self._store.stage(tried.release.manifest, tried.release.files)
                self._load(release)
            except PermanentError as error:
                self._undo(release)
                tried = self._tried[release] = tried.untaken(str(error))
        if tried is None or tried.release is None:
            self._store.stage(manifest)
            self._load(release)
        if tried is not None:
            self._audit.add(now_us, "compressed" if tried.release else "not_compressed", release, **tried.record())

    def _load(self, release: str) -> None:
        self._store.stage_model(release)
        self._fleet.put_up(release, self._shelf.get(release).golden, self.book.champion)

    def _accept(self, entry: Entry, verdict: Verdict, now_us: int) -> None:
        if self._policy.approval == "auto":
            self._route(entry, "passed the gate", "", now_us, verdict)
        else:
            self._hold(entry, verdict, now_us)
        self._settle(entry.release)

    def _hold(self, entry: Entry, verdict: Verdict, now_us: int) -> None:
        figures = _judged(verdict) | before_and_after(entry.metrics)
        self._audit.add(now_us, "held", entry.release, parent=entry.parent, **figures)
        old = self.wanted()
        self._keeper.change(lambda book: held(book, entry, now_us))
        self._leave(old, now_us)
        self._outside.decided("held", _seconds(entry.created_us, now_us))

    def _route(self, entry: Entry, reason: str, actor: str, now_us: int, verdict: Verdict | None = None) -> None:
        figures = _judged(verdict) | before_and_after(entry.metrics)
        parent = self.book.champion
        self._audit.add(now_us, "promoted", entry.release, parent=parent, actor=actor, reason=reason, **figures)
        old = self.wanted()
        self._keeper.change(lambda book: promoted(book, entry, reason, now_us))
        self._leave(old, now_us)
        self.sync(now_us)
        self._outside.decided("promoted", _seconds(entry.created_us, now_us))

    def _refuse(
        self, release: str, reason: str, now_us: int, verdict: Verdict | None = None, manifest: Manifest | None = None
    ) -> None:
        figures = _judged(verdict) | (before_and_after(manifest.metrics) if manifest else {})
        self._audit.add(now_us, "refused", release, reason=reason, **figures)
        entry = Entry.of(manifest, 0, State.REFUSED, reason, now_us) if manifest else _unread(release, reason, now_us)
        self._keeper.change(lambda book: book.with_entry(entry))
        self._settle(release)
        self._outside.decided("refused", 0.0)

    def _settle(self, release: str) -> None:
        self._store.drop_candidate(release)
        self._seen.pop(release, None)
        self._tried.pop(release, None)

    def _undo(self, release: str) -> None:
        try:
            self._fleet.unload_everywhere(release)
        except FreshrankError as error:
            logger.warning("not unloaded", extra={"release": release, "error": str(error)})
        self._store.drop(release)
        self._shelf.forget(release)

    def _leave(self, before: set[str], now_us: int) -> None:
        for release in before - self.wanted():
            self._draining[release] = now_us + int(self._policy.drain_s * 1e6)

    def _drain(self, now_us: int) -> None:
        for release in [name for name, end in self._draining.items() if end <= now_us]:
            del self._draining[release]
            if release not in self.wanted():
                self._fleet.unload_everywhere(release)
        keep = self._kept()
        for release in self._store.kept():
            if release not in keep and release not in self._draining and self.book.knows(release):
                self._fleet.unload_everywhere(release)
                self._store.drop(release)

    def _tidy(self, now_us: int) -> None:
        """Take out what servers have and should not: what a crash, or a server that was away, left there."""
        if now_us - self._tidied_us > _TIDY_US:
            self._tidied_us = now_us
            self._fleet.tidy(self.wanted(), lambda name: arm_of(name) == self.book.arm)

    def _kept(self) -> set[str]:
        keep = self.wanted()
        for entry in self.book.entries:
            if len(keep) >= self._policy.keep:
                break
            if entry.can_return:
                keep.add(entry.release)
        return keep

    def _before(self) -> Entry:
        kept = set(self._store.kept())
        for entry in self.book.entries:
            if (
                entry.can_return
                and entry.release in kept
                and manifests.age_order(entry.release) < manifests.age_order(self.book.champion)
            ):
                return entry
        raise NotFound("there is no earlier release to go back to")


def _judged(verdict: Verdict | None) -> dict[str, Any]:
    """What a verdict leaves in the audit record; a person's decision has none."""
    return {"checks": []} if verdict is None else {"checks": verdict.to_json(), **verdict.figures}


def _unread(release: str, reason: str, now_us: int) -> Entry:
    return Entry(release, State.REFUSED, "", 0, 0, {}, 0, 0, "", 0, "", reason, now_us)


def _seconds(since_us: int, now_us: int) -> float:
    return max(0, now_us - since_us) / 1e6
