"""The state of one view: its keys, its groups of features, and what changed since it was last published."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.definitions import FeatureDefinition, from_json
from services.common.plans import ViewPlan
from services.features.aggregates import Ints
from services.features.group import Group, Joined, Picked
from services.features.interner import Interner
from services.features.keys import OVERDUE, Key, Keys
from services.features.plan import compiled
from services.features.rows import Rows
from services.online.encode import Column


@dataclass(frozen=True)
class ViewRows:
    """New values of one view: a row per key."""

    view: str
    join_keys: tuple[str, ...]
    keys: list[Key]
    columns: dict[str, Column]
    """By field name: `feature`, or `feature@hash8` for a superseded definition."""
    kinds: dict[str, str]
    """Value type of each column."""
    ids: dict[str, int]
    """Feature id of each column."""
    event_us: Ints
    """Newest event in the values of each key."""
    received_us: Ints
    """When the newest event of this batch was received; 0 for keys that only time has changed."""
    position: int
    """The values hold for everything below this offset ..."""
    clock_us: int
    """... at this time of the log."""
    users: list[str] = field(default_factory=list)
    """Whose each row is; none where keys belong to no shopper."""


class ViewState:
    """Keys and groups of one view."""

    def __init__(self, view: ViewPlan, interner: Interner) -> None:
        self.name, self.join_keys = view.name, view.join_keys
        self._interner = interner
        self.keys = Keys(view.join_keys)
        self.groups: list[Group] = []
        self._current: dict[int, FeatureDefinition] = {}

    def plan(self, view: ViewPlan, position: int, keep: Callable[[int], bool], past: bool = False) -> None:
        """Take a new version of the view; what is new in it starts at `position` and waits for a back-fill.

        `past`: there are rows of its keys on other logs, whatever the position.
        A definition that is gone or was changed is computed on under `name@hash8` while `keep(id)` says so.
        """
        before = [self.field(definition) for group in self.groups for definition in group.definitions]
        self._current = {definition.id: definition for definition in view.features}
        known: set[int] = set()
        for group in self.groups:
            group.definitions = [d for d in group.definitions if d.id in self._current or keep(d.id)]
            known |= {definition.id for definition in group.definitions}
        self.groups = [group for group in self.groups if group.definitions]
        added = [definition for definition in view.features if definition.id not in known]
        if added:
            group = Group(compiled(added), self._interner, position)
            group.ready = group.ready and not past
            self.groups.append(group)
        after = {self.field(definition) for group in self.groups for definition in group.definitions}
        if not after <= set(before):
            self.publish_all()

    def publish_all(self) -> None:
        """Have every key published again, as there is room."""
        used = self.keys.used()
        self.keys.plan_next(used, np.full(len(used), OVERDUE, np.int64))

    def overdue(self) -> int:
        """Keys that wait to be published."""
        return self.keys.overdue()

    @property
    def current(self) -> Collection[FeatureDefinition]:
        """The definitions of the newest plan."""
        return self._current.values()

    def field(self, definition: FeatureDefinition) -> str:
        """Name a definition's values are stored under."""
        return definition.name if definition.id in self._current else f"{definition.name}@{definition.hash8}"

    def apply(self, rows: Rows, clock_us: int, publish: bool, limit: int, position: int) -> ViewRows | None:
        """Fold rows in; returns new values of the keys they touched and of at most `limit` keys that time changed.

        Unless `publish`, nothing is returned and the touched keys are published when there is room.
        """
        at, slots, owner = self._located(rows)
        due = np.setdiff1d(self.keys.due(clock_us, limit), slots) if publish else slots[:0]
        asked = np.concatenate([slots, due])
        if not len(asked):
            return None
        picked = Picked(rows, at, asked, owner, self.keys.serial[asked])
        columns: dict[str, Column] = {}
        next_us = np.full(len(asked), OVERDUE if not publish else 2**62, np.int64)
        for group in self.groups:
            found, falls = group.update(picked, clock_us, publish)
            columns |= {self.field(d): found[d.id] for d in group.definitions if d.id in found}
            np.minimum(next_us, falls, out=next_us)
            group.sweep(clock_us)
        self.keys.plan_next(asked, next_us)
        return self._published(picked, columns, clock_us, position) if publish else None

    def _located(self, rows: Rows) -> tuple[Ints, Ints, Ints]:
        if not rows.length:
            none = np.zeros(0, np.int64)
            return none, none, none
        return self.keys.locate(rows, np.logical_or.reduce([group.wanted(rows) for group in self.groups]))

    def _published(self, picked: Picked, columns: dict[str, Column], clock_us: int, position: int) -> ViewRows:
        asked = picked.slots
        received = np.zeros(len(asked), np.int64)
        np.maximum.at(received, picked.owner, picked.rows.received_us[picked.at])
        definitions = {self.field(d): d for group in self.groups for d in group.definitions}
        out = ViewRows(
            self.name,
            self.join_keys,
            self.keys.names(asked),
            columns,
            {name: definition.value_type for name, definition in definitions.items()},
            {name: definition.id for name, definition in definitions.items()},
            self.keys.event_us[asked].copy(),
            received,
            position,
            clock_us,
            self.keys.owners(asked),
        )
        self._let_go(asked)
        return out

    def _let_go(self, slots: Ints) -> None:
        held = np.sum([group.rows_of(slots) for group in self.groups], axis=0)
        self.keys.free(slots[held == 0])

    def forget(self, user: str, before_us: int) -> None:
        """Drop what is held of a shopper from before a time; the keys are published as there is room."""
        slots = self.keys.of_user(user)
        if len(slots):
            for group in self.groups:
                group.forget(slots, self.keys.serial[slots], before_us)
            self.keys.plan_next(slots, np.full(len(slots), OVERDUE, np.int64))

    def merge(self, other: "ViewState", group: Group, clock_us: int) -> None:
        """Add the state of a back-fill, made by the same definitions below the group's position, and call it ready."""
        group.merge(other.groups[0], self._joined(other, other.keys.used()), clock_us)
        group.ready = True
        self.publish_all()

    def _joined(self, other: "ViewState", theirs: Ints) -> Joined:
        ours = self.keys.slots(other.keys.names(theirs))
        place = np.full(other.keys.serials, -1, np.int64)
        place[other.keys.serial[theirs]] = np.arange(len(theirs))
        self.keys.event_us[ours] = np.maximum(self.keys.event_us[ours], other.keys.event_us[theirs])
        return Joined(theirs, ours, self.keys.serial[ours], place)

    def empty(self, interner: Interner) -> "ViewState":
        """A view with the same groups and no keys."""
        made = ViewState(ViewPlan(self.name, self.join_keys, ()), interner)
        made._current = dict(self._current)
        made.groups = [group.empty(interner) for group in self.groups]
        return made

    def adopt(self, other: "ViewState", theirs: Ints, clock_us: int) -> None:
        """Take keys of a view with the same groups over from another partition; they are published as there is room."""
        joined = self._joined(other, theirs)
        for mine, their in zip(self.groups, other.groups, strict=True):
            mine.merge(their, joined, clock_us)
            mine.precede(joined.ours)
        pairs = zip(joined.ours.tolist(), theirs.tolist(), strict=True)
        self.keys.users |= {ours: other.keys.users[slot] for ours, slot in pairs if slot in other.keys.users}
        self.publish_all()

    def words_used(self) -> list[Ints]:
        """Numbers of words that the state holds."""
        used = self.keys.used()
        return [codes for group in self.groups for codes in group.words_used(used)]

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and plain data of the whole view."""
        arrays, serials = self.keys.save()
        used = self.keys.used()
        meta: dict[str, Any] = {"join_keys": self.join_keys, "serials": serials, "groups": []}
        for number, group in enumerate(self.groups):
            arrays |= {f"group{number}/{name}": array for name, array in group.save(used).items()}
            meta["groups"].append(
                {
                    "program": [asdict(d) for d in group.program.definitions],
                    "definitions": [d.id for d in group.definitions],
                    "ready": group.ready,
                    "fill_below": group.fill_below,
                }
            )
        meta["current"] = [asdict(d) for d in self._current.values()]
        return arrays, meta

    @staticmethod
    def load(name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], interner: Interner) -> "ViewState":
        """Put back what `save` gave."""
        current = [from_json(data) for data in meta["current"]]
        view = ViewState(ViewPlan(name, tuple(meta["join_keys"]), ()), interner)
        view._current = {definition.id: definition for definition in current}
        view.keys.load(arrays, meta["serials"])
        for number, saved in enumerate(meta["groups"]):
            group = Group(compiled(_definitions(saved["program"])), interner, saved["fill_below"])
            group.ready = saved["ready"]
            group.definitions = [d for d in group.program.definitions if d.id in saved["definitions"]]
            prefix = f"group{number}/"
            group.load({n[len(prefix) :]: array for n, array in arrays.items() if n.startswith(prefix)})
            view.groups.append(group)
        return view


def _definitions(data: Sequence[Mapping[str, Any]]) -> list[FeatureDefinition]:
    return [from_json(one) for one in data]
