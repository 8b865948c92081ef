"""What the two folds of the service share: messages in, changed values and derived rows out. Pure."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.common.plans import ViewPlan
from services.common.records import Message, decode
from services.common.stage import Snapshot
from services.features.aggregates import Ints
from services.features.group import Group
from services.features.interner import Interner, pack_words, unpack_words
from services.features.rows import Batches, Rows, counted, joined, to_numpy
from services.features.views import ViewRows, ViewState
from services.features.windows import NEVER

DUE_ROWS = 5_000
"""Keys of one view that time alone has changed, published per step at most: bounds a step."""

_WORDS_SLACK = 50_000


@dataclass(frozen=True)
class Outputs:
    """What follows from some messages."""

    views: list[ViewRows] = field(default_factory=list)
    items: dict[int, list[bytes]] = field(default_factory=dict)
    """Messages for each partition of item_interactions."""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows: aggregated, late, bot, duplicate, forgotten; messages: malformed."""
    malformed: list[tuple[Message, str]] = field(default_factory=list)
    """Messages that are not columns of this topic, and why; they change nothing."""
    clock_us: int = 0
    queries: list[tuple[str, int, int]] = field(default_factory=list)
    """Changes of what may be suggested: `asked.News`."""
    forgotten: list[tuple[str, int, int]] = field(default_factory=list)
    """Who is forgotten: shopper, offset of the wish, and the time from before which."""


class ViewsFold:
    """State of one partition; `by_user.UserFold` and `by_item.ItemFold` say how its messages become rows."""

    schema: pa.Schema

    def __init__(self, views: Sequence[ViewPlan], due_rows: int = DUE_ROWS) -> None:
        self.next_offset = 0
        self.clock_us = 0
        self.publish_from = 0
        """Below this position nothing is published: state only, each touched key is published once from here on."""
        self.interner = Interner()
        self.marks: dict[str, Any] = {}
        """What the stage knew of the online store when it last wrote: kept with the state."""
        self.writing = False
        """True while outputs are on their way to the online store."""
        self.forgotten: list[tuple[str, int]] = []
        """(user, before) of forgets since the first unfinished back-fill began."""
        self.past: dict[int, int] = {}
        """Ends of the other partitions when partitions were added last: below them lie old rows of keys of this one."""
        self.strict = False
        """True while logs are read that hold rows of keys of other partitions: those are passed over."""
        self._due_rows = due_rows
        self.views = {view.name: self._new_view(view, 0) for view in views if self.folds(view)}

    @staticmethod
    def folds(view: ViewPlan) -> bool:
        """True when this kind of fold computes the view."""
        raise NotImplementedError

    def _new_view(self, view: ViewPlan, position: int) -> ViewState:
        state = ViewState(view, self.interner)
        state.plan(view, position, lambda _: False, bool(self.past))
        return state

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """Take messages in log order; returns the values of every key that changed."""
        if not messages:
            return Outputs()
        batches, malformed = self._read(messages)
        table, offset, index = joined(batches, self.schema)
        fresh = self._fresh(table)
        if self.strict:
            fresh &= self._mine(table)
        self.next_offset = messages[-1].offset + 1
        if table.num_rows:
            self.clock_us = max(self.clock_us, int(to_numpy(table.column("time_us")).max()))
        keep, counts = counted(table, fresh)
        publish = self.next_offset >= self.publish_from
        views: list[ViewRows] = []
        for rows, last in self._segments(table, keep, fresh, counts):
            views = self._fold_rows(self.views.values(), rows, publish and last)
        counts |= {"aggregated": int(keep.sum()), "malformed": len(malformed)}
        derived, forgotten = self._derived(table, rows, keep, (offset, index)), self._wishes(table, offset)
        return Outputs(views, derived, counts, malformed, self.clock_us, forgotten=forgotten)

    def _read(self, messages: Sequence[Message]) -> tuple[Batches, list[tuple[Message, str]]]:
        batches: list[tuple[int, pa.RecordBatch]] = []
        malformed: list[tuple[Message, str]] = []
        for message in messages:
            try:
                batch = decode(message.value)
            except CorruptState as error:
                malformed.append((message, str(error)))
                continue
            if batch.schema == self.schema:
                batches.append((message.offset, batch))
            else:
                malformed.append((message, "a message of another topic"))
        return batches, malformed

    def _fold_rows(self, views: Collection[ViewState], rows: Rows, publish: bool) -> list[ViewRows]:
        found = [view.apply(rows, self.clock_us, publish, self._due_rows, self.next_offset) for view in views]
        return [view for view in found if view is not None]

    def _fresh(self, table: pa.Table) -> NDArray[np.bool_]:
        raise NotImplementedError

    def _mine(self, table: pa.Table) -> NDArray[np.bool_]:
        """Rows of keys of this partition."""
        raise NotImplementedError

    def _segments(
        self, table: pa.Table, keep: NDArray[np.bool_], fresh: NDArray[np.bool_], counts: dict[str, int]
    ) -> Iterator[tuple[Rows, bool]]:
        """Rows to fold one after the other, and whether they are the last."""
        raise NotImplementedError

    def _derived(
        self, table: pa.Table, last: Rows, keep: NDArray[np.bool_], origin: tuple[Ints, Ints]
    ) -> dict[int, list[bytes]]:
        return {}

    def _wishes(self, table: pa.Table, offset: Ints) -> list[tuple[str, int, int]]:
        return []

    def replan(self, views: Sequence[ViewPlan], keep: Callable[[int], bool]) -> None:
        """Take a new plan: new features start at this position (see `unfilled`), removed views stop.

        `keep(id)`: a release that can still be loaded names this superseded definition.
        """
        mine = {view.name: view for view in views if self.folds(view)}
        self.views = {
            name: state
            for name, state in self.views.items()
            if name in mine and state.join_keys == mine[name].join_keys
        }
        for name, view in mine.items():
            if name in self.views:
                self.views[name].plan(view, self.next_offset, keep, bool(self.past))
            else:
                self.views[name] = self._new_view(view, self.next_offset)

    def unfilled(self) -> list[tuple[str, Group]]:
        """Groups of features whose past, below `group.fill_below`, is missing, by view."""
        return [(name, group) for name, view in self.views.items() for group in view.groups if not group.ready]

    def filler(self, view: str, group: Group) -> "ViewsFold":
        """An empty fold of the same kind that computes only this group, to be fed with what lies below."""
        plan = ViewPlan(view, self.views[view].join_keys, group.program.definitions)
        filler = self._empty([plan])
        filler.publish_from = NEVER
        filler.strict = bool(self.past)
        return filler

    def logs(self, partition: int, group: Group) -> list[tuple[int, int]]:
        """Partitions and ends of the logs that a group's past lies on; what is folded last is the partition itself."""
        return [
            *((other, end) for other, end in self.past.items() if other != partition),
            (partition, group.fill_below),
        ]

    def begin_log(self) -> None:
        """Another log follows, whose rows were numbered by themselves."""
        raise NotImplementedError

    def _empty(self, views: Sequence[ViewPlan]) -> "ViewsFold":
        raise NotImplementedError

    def fill(self, view: str, group: Group, filler: "ViewsFold") -> bool:
        """Merge a filler that has folded everything below; False when the group is not wanted any more."""
        if view not in self.views or group not in self.views[view].groups or group.ready:
            return False
        for user, before_us in [*filler.forgotten, *self.forgotten]:
            filler.views[view].forget(user, before_us)
        self.views[view].merge(filler.views[view], group, self.clock_us)
        if not self.unfilled():
            self.forgotten.clear()
        return True

    def snapshot(self) -> Snapshot:
        """Copy the state."""
        self._clean_words()
        arrays: dict[str, NDArray[Any]] = {f"words/{n}": a for n, a in pack_words(self.interner.words).items()}
        meta: dict[str, Any] = {"clock_us": self.clock_us, "forgotten": self.forgotten, "marks": self.marks}
        meta |= {"views": {}, "past": sorted(self.past.items()), **self.applied_marks()}
        for name, view in self.views.items():
            found, meta["views"][name] = view.save()
            arrays |= {f"view/{name}/{path}": array for path, array in found.items()}
        return Snapshot(self.next_offset, arrays, meta)

    def applied_marks(self) -> dict[str, Any]:
        """`applied`: which rows of the log are in the state; plain data."""
        raise NotImplementedError

    def _restore_applied(self, meta: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of a snapshot, its plan included; `replan` follows with the current one."""
        meta = snapshot.meta
        self.next_offset, self.clock_us = snapshot.next_offset, meta["clock_us"]
        self.marks = dict(meta["marks"])
        self.forgotten = [(user, before_us) for user, before_us in meta["forgotten"]]
        self.past = dict(meta.get("past", []))
        self.interner = Interner(unpack_words(snapshot.arrays["words/ends"], snapshot.arrays["words/bytes"]))
        self.views = {}
        for name, saved in meta["views"].items():
            prefix = f"view/{name}/"
            mine = {path[len(prefix) :]: a for path, a in snapshot.arrays.items() if path.startswith(prefix)}
            self.views[name] = ViewState.load(name, mine, saved, self.interner)
        self._restore_applied(meta)

    def _clean_words(self) -> None:
        used = [codes for view in self.views.values() for codes in view.words_used()]
        kept = np.unique(np.concatenate(used)) if used else np.zeros(0, np.int64)
        if len(self.interner.words) <= 2 * len(kept) + _WORDS_SLACK:
            return
        renumbered = np.zeros(len(self.interner.words), np.int64)
        renumbered[kept] = np.arange(len(kept))
        words = self.interner.text(kept)
        self.interner.restart(words)
        for view in self.views.values():
            for group in view.groups:
                group.remap(renumbered)
