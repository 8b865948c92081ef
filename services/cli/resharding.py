"""Adding partitions to the logs of an installation: one step after the other, each of which may be the last for now.

The plan is written first and says what is moved from where to where. Until it says `staged`, nothing but the plan and
a folder beside the snapshots has changed, and running again begins anew. From then on every step finds out what is
done already: epochs are raised, topics get their partitions, folders change places. The plan goes last.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli import moving
from services.cli.drained import STAGES, State, missing, sentence
from services.cli.kafka import add_partitions, members
from services.common import layout
from services.common.errors import Conflict, InvalidInput
from services.common.kafka import Probe
from services.common.snapshots import sync, write_durably
from services.common.topics import EVENTS, EXAMPLES, INTERACTIONS, ITEM_INTERACTIONS

if TYPE_CHECKING:
    from services.cli.settings import CliSettings
    from services.online.epochs import Epochs

LOGS = (EVENTS.name, INTERACTIONS.name, ITEM_INTERACTIONS.name, EXAMPLES.name)
"""Topics that share their number of partitions."""

Say = Callable[[float, str], None]


@dataclass(frozen=True)
class Plan:
    """What a reshard does."""

    before: int
    after: int
    ends: dict[str, dict[str, int]] = field(default_factory=dict)
    """Where the logs ended that the state was folded from, by topic and partition."""
    epochs: dict[str, int] = field(default_factory=dict)
    """Epoch of each view from now on."""
    moved: list[str] = field(default_factory=list)
    """Services that have state."""
    staged: bool = False
    """The new state is whole."""


@dataclass(frozen=True)
class Sized:
    """Entries of one stage's state by partition, before and after."""

    service: str
    topic: str
    before: dict[int, int] = field(default_factory=dict)
    after: dict[int, int] = field(default_factory=dict)


class Reshard:
    """One run of the command."""

    def __init__(self, settings: "CliSettings", after: int, apart_us: int) -> None:
        self._settings, self._after, self._apart_us = settings, after, apart_us
        self._store, self._path = settings.store, settings.store / layout.PLAN
        self._probe = Probe(settings.kafka)
        self.resumed = False
        """True when a run before was interrupted after the state had been staged."""
        self.sizes: dict[tuple[str, str], Sized] = {}

    def close(self) -> None:
        """Leave Kafka."""
        self._probe.close()

    def run(self, dry: bool, say: Say) -> Plan:
        """Do it, or with `dry` all but changing anything. Raises Conflict when streams or state are not ready."""
        self._nobody_reads()
        plan = self._begun(dry)
        if plan is None:
            plan = self._planned()
            self._stage(plan, dry, say)
        if dry:
            return plan
        last = ((self._raise_epochs, "epochs"), (self._add_partitions, "topics"), (self._exchange, "folders"))
        for done, (step, remark) in enumerate(last):
            say(len(STAGES) * plan.after + done, remark)
            step(plan)
        say(steps(plan.after), "")
        return plan

    def _nobody_reads(self) -> None:
        found = {name: count for name, count in members(self._settings.kafka, moving.SERVICES).items() if count}
        if found:
            told = ", ".join(f"{name} ({count})" for name, count in found.items())
            raise Conflict(
                f"streams still run: {told} in their consumer groups: stop them first, ingest before the others"
            )

    def _begun(self, dry: bool) -> Plan | None:
        """The plan of a run that was interrupted; one that had not staged its state is thrown away."""
        found = layout.read_json(self._path)
        plan = Plan(**found) if found is not None else None
        if plan is None or not plan.staged:
            if not dry:
                self._discard()
            return None
        if plan.after != self._after:
            raise Conflict(
                f"a reshard to {plan.after} partitions has begun: end it first, with --partitions {plan.after}"
            )
        self._unchanged(plan)
        self.resumed = True
        return plan

    def _unchanged(self, plan: Plan) -> None:
        if self._ends(plan.before) != plan.ends:
            raise Conflict("the logs have grown since the state was read: has a stream been started?")

    def _discard(self) -> None:
        shutil.rmtree(moving.staging(self._store), ignore_errors=True)
        self._path.unlink(missing_ok=True)

    def _planned(self) -> Plan:
        before = self._partitions()
        if self._after <= before:
            what = f"must be more than the {before} there are: Kafka takes no partitions away"
            raise InvalidInput("--partitions", "out_of_range", what)
        divided = layout.divided_by(self._store / layout.SNAPSHOTS)
        if divided not in (None, before):
            raise Conflict(f"the state is divided by {divided} partitions, the topics have {before}")
        ends = self._ends(before)
        self._state = State(moving.newest(self._store, before), _numbered(ends))
        if found := missing(self._state, self._apart_us):
            raise Conflict(
                f"not ready: {sentence(found)}: start the streams, and stop each when it has read everything"
            )
        return Plan(before, self._after, ends, self._epochs())

    def _partitions(self) -> int:
        found = {topic: len(self._probe.partitions(topic)) for topic in LOGS}
        if len(set(found.values())) > 1:
            raise Conflict(f"the topics differ in their partitions: {', '.join(f'{t} {n}' for t, n in found.items())}")
        return found[EVENTS.name]

    def _ends(self, partitions: int) -> dict[str, dict[str, int]]:
        topics = (INTERACTIONS.name, ITEM_INTERACTIONS.name)
        return {t: {str(p): self._probe.bounds(t, p)[1] for p in range(partitions)} for t in topics}

    def _epochs(self) -> dict[str, int]:
        """The next epoch of each view that has one: positions begin anew, and a lower one would not be written."""
        with _Online(self._settings) as online:
            return {view: epoch + 1 for view, epoch in online.read(self._views()).items() if epoch is not None}

    def _views(self) -> list[str]:
        found = [s for (service, _), s in self._state.snapshots.items() if service == "features"]
        return sorted({view for by in found for snapshot in by.values() for view in snapshot.meta["views"]})

    def _stage(self, plan: Plan, dry: bool, say: Say) -> None:
        to = moving.staging(self._store)
        try:
            if not dry:
                self._write(plan)
                to.mkdir()
            self._move(plan, None if dry else to, say)
            self._nobody_reads()  # one that started before the plan was there
            self._unchanged(plan)
        except BaseException:
            if not dry:
                self._discard()
            raise
        if not dry:
            plan.moved[:] = sorted({service for (service, _), sized in self.sizes.items() if sized.after})
            self._write(Plan(**{**asdict(plan), "staged": True}))

    def _move(self, plan: Plan, to: Path | None, say: Say) -> None:
        for (service, topic), found in self._state.snapshots.items():
            before = {partition: moving.size(service, snapshot) for partition, snapshot in found.items()}
            self.sizes[service, topic] = Sized(service, topic, before)
        made = moving.moved(self._state, self._store, plan.before, plan.after, plan.epochs, to)
        for done, (service, topic, partition, snapshot) in enumerate(made):
            self.sizes[service, topic].after[partition] = moving.size(service, snapshot)
            if to is not None:
                moving.save(to, (service, topic, partition, snapshot))
            say(done + 1, f"{service}, {topic}-{partition}")

    def _write(self, plan: Plan) -> None:
        write_durably(self._path, json.dumps(asdict(plan)).encode())

    def _raise_epochs(self, plan: Plan) -> None:
        with _Online(self._settings) as online:
            for view, epoch in plan.epochs.items():
                online.raise_to(view, epoch)

    def _add_partitions(self, plan: Plan) -> None:
        add_partitions(self._settings.kafka, LOGS, plan.after)

    def _exchange(self, plan: Plan) -> None:
        moving.switch(self._store, plan.before)
        layout.mark(self._store / layout.SNAPSHOTS, plan.after, plan.moved)
        self._path.unlink()
        sync(self._store)


class _Online:
    """Epochs of the views in the online store."""

    def __init__(self, settings: "CliSettings") -> None:
        from services.online.connect import client
        from services.online.epochs import Epochs
        from services.online.registry import repo_config

        self._client = client(settings.redis_url, settings.redis_tls, socket_timeout=5, socket_connect_timeout=5)
        self._epochs = Epochs(self._client, repo_config(settings.feature_repo).project)

    def __enter__(self) -> "Epochs":
        return self._epochs

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _numbered(ends: Mapping[str, Mapping[str, int]]) -> dict[str, dict[int, int]]:
    return {topic: {int(partition): end for partition, end in found.items()} for topic, found in ends.items()}


def steps(partitions: int) -> int:
    """Snapshots that are written, and the three steps after them."""
    return len(STAGES) * partitions + 3
