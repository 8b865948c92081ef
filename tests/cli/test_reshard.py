"""What a reshard asks before it begins, and the exchange of folders at its end, interrupted anywhere."""

from pathlib import Path

import pytest

from services.cli.drained import STAGES, State, missing
from services.cli.moving import SERVICES, kept_folder, staging, switch
from services.common.errors import Conflict, CorruptState
from services.common.layout import PLAN, SNAPSHOTS, check_layout, divided_by, mark, snapshots_of
from services.common.stage import Snapshot
from services.common.topics import INTERACTIONS, ITEM_INTERACTIONS
from tests.cli.fakes import run

MINUTE = 60_000_000


def state(**changes: object) -> State:
    """Two partitions whose streams have read everything: ten messages, of which the last is of record 7."""
    found = {
        (service, topic): {p: Snapshot(10, {}, {"clock_us": MINUTE, "applied": 7 << 31 | 3}) for p in range(2)}
        for service, topic in STAGES
    }
    for name, changed in changes.items():
        service, topic = name.split("__")
        found[service, topic] = changed  # type: ignore[assignment]
    return State(found, {topic: {0: 10, 1: 10} for topic in (INTERACTIONS.name, ITEM_INTERACTIONS.name)})


def at(offset: int, **meta: int) -> dict[int, Snapshot]:
    """The first partition at the end, the second one elsewhere."""
    usual = {"clock_us": MINUTE, "applied": 7 << 31 | 3}
    return {0: Snapshot(10, {}, usual), 1: Snapshot(offset, {}, {**usual, **meta})}


def test_streams_that_have_read_and_saved_everything_lack_nothing() -> None:
    assert missing(state(), MINUTE) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"features__interactions": at(7)}, "features, interactions-1: 3 messages are not in its newest snapshot"),
        ({"features__item_interactions": {}}, "features, item_interactions-0: 10 messages are not in its"),
        ({"joiner__interactions": at(9)}, "joiner, interactions-1: 1 messages are not in its newest snapshot"),
        ({"joiner__interactions": at(12)}, "joiner, interactions-1: its state is 2 messages beyond the end"),
        ({"features__interactions": at(10, applied=14 << 31)}, "ingest, events.in-1: 5 taken messages are not in its"),
        ({"features__interactions": at(10, clock_us=4 * MINUTE)}, "interactions-0: its clock is 180 s behind"),
    ],
    ids=["features", "no snapshot", "joiner", "another log", "ingest", "clocks"],
)
def test_what_is_missing_is_told_by_stage_and_partition(changed: dict[str, object], told: str) -> None:
    assert told in "; ".join(missing(state(**changed), MINUTE))


def test_a_partition_that_has_taken_nothing_has_no_snapshot_and_lacks_none() -> None:
    ends = {topic: {0: 0, 1: 0} for topic in (INTERACTIONS.name, ITEM_INTERACTIONS.name)}
    assert missing(State({}, ends), MINUTE) == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with old state, new state beside it, and what other services keep."""
    for service in SERVICES:
        for folder, text in ((tmp_path / SNAPSHOTS, "old"), (staging(tmp_path), "new")):
            (folder / service).mkdir(parents=True)
            (folder / service / "state").write_text(text)
    (tmp_path / SNAPSHOTS / "publisher").mkdir()
    return tmp_path


def read(folder: Path) -> list[str]:
    """What the state of each service says; empty where there is none."""
    found = [folder / service / "state" for service in SERVICES]
    return [path.read_text() if path.exists() else "" for path in found]


@pytest.mark.parametrize("renames", range(7))
def test_folders_change_places_whole_whatever_rename_was_the_last(store: Path, renames: int) -> None:
    for number, service in [(n, s) for n, s in enumerate(s for s in SERVICES for _ in range(2)) if n < renames]:
        kept_folder(store, 2).mkdir(exist_ok=True)
        here = store / SNAPSHOTS / service
        if number % 2:
            (staging(store) / service).rename(here)
        else:
            here.rename(kept_folder(store, 2) / service)
    for _ in range(2):
        switch(store, 2)
        assert read(store / SNAPSHOTS) == ["new"] * 3
        assert read(kept_folder(store, 2)) == ["old"] * 3
    assert not staging(store).exists()
    assert (store / SNAPSHOTS / "publisher").is_dir()


def test_a_stream_starts_only_on_state_of_its_own_number_of_partitions(tmp_path: Path) -> None:
    check_layout(tmp_path, 2)
    check_layout(tmp_path, 2)
    with pytest.raises(Conflict, match="divided by 2 partitions and FRESHRANK_PARTITIONS says 3"):
        check_layout(tmp_path, 3)
    mark(tmp_path / SNAPSHOTS, 3)
    check_layout(tmp_path, 3)
    (tmp_path / PLAN).write_text("{}")
    with pytest.raises(Conflict, match="a reshard has begun and not ended"):
        check_layout(tmp_path, 3)


def test_state_that_was_moved_needs_its_snapshots(tmp_path: Path) -> None:
    assert snapshots_of(tmp_path, "joiner", 2).newest("interactions", 0) is None
    mark(tmp_path / SNAPSHOTS, 3, ["joiner"])
    assert snapshots_of(tmp_path, "ingest", 3).newest("events.in", 0) is None
    with pytest.raises(CorruptState, match="no snapshot of interactions-0 can be read"):
        snapshots_of(tmp_path, "joiner", 3).newest("interactions", 0)


def test_a_number_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    mark(tmp_path, 3)
    (tmp_path / "partitions.json").write_text("{")
    with pytest.raises(CorruptState, match=r"partitions\.json"):
        divided_by(tmp_path)


def test_the_number_has_to_be_given_and_within_bounds() -> None:
    for arguments in (["reshard"], ["reshard", "--partitions", "0"], ["reshard", "--partitions", "5000"]):
        ended = run(*arguments)
        assert ended.code == 2
        assert "--partitions" in ended.err
