"""Many Triton servers: who is routed to while they come, go, restart empty, refuse and lie."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.errors import NotOwner, PermanentError, TemporaryError
from services.publisher import manifest as manifests
from services.publisher.fleet import Fleet
from services.publisher.golden import Golden
from services.publisher.shelf import opened
from services.publisher.store import ReleaseStore
from tests.publisher.exports import Net, export
from tests.publisher.fakes import SmallTriton


class Servers:
    """Three small servers over one model folder, with two releases in it."""

    def __init__(self, root: Path) -> None:
        self.store = ReleaseStore(root, "main", "python")
        self.store.prepare()
        self.golden: dict[str, Golden] = {}
        for seq in (1, 2):
            folder = export(self.store.exports, Net(), {}, seq=seq, second=seq, parent="")
            self.store.stage(manifests.read(folder))
            self.store.stage_model(folder.name)
            self.golden[folder.name] = opened(self.store.folder(folder.name)).golden
        self.names = sorted(self.golden)
        self.by = {name: SmallTriton(self.store.models) for name in ("one", "two", "three")}
        self.there = list(self.by)
        self.now_s = 0.0
        self.leads = True
        self.fleet = Fleet(lambda: self.there, lambda address: self.by[address], self._fence, 5.0, lambda: self.now_s)

    def put_up(self, name: str, champion: str = "") -> float:
        return self.fleet.put_up(name, self.golden[name], champion)

    def tend(self, *names: str) -> list[str]:
        self.now_s += 2.0
        return self.fleet.tend({name: self.golden[name] for name in names})

    def _fence(self) -> None:
        if not self.leads:
            raise NotOwner("does not lead")


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path)


@pytest.fixture
def first(servers: Servers) -> str:
    """A release that every server has."""
    servers.put_up(servers.names[0])
    return servers.names[0]


def test_a_release_is_routed_to_where_it_answers_right(servers: Servers, first: str) -> None:
    assert servers.fleet.placed(first) == ["one", "three", "two"]
    assert servers.fleet.placed(servers.names[1]) == []


def test_a_server_that_joins_is_loaded_and_asked_before_it_is_routed_to(servers: Servers, first: str) -> None:
    servers.there = ["one", "two", "three", "four"]
    servers.by["four"] = SmallTriton(servers.store.models)
    assert servers.fleet.placed(first) == ["one", "three", "two"]
    assert servers.tend(first) == []
    assert servers.fleet.placed(first) == ["four", "one", "three", "two"]


def test_a_server_that_leaves_is_routed_to_no_more(servers: Servers, first: str) -> None:
    servers.there = ["two"]
    servers.tend(first)
    assert servers.fleet.placed(first) == ["two"]


def test_a_server_that_restarts_empty_is_given_its_releases(servers: Servers, first: str) -> None:
    servers.by["one"].restart()
    assert servers.tend(first) == []
    assert servers.by["one"].loaded() == {first}
    assert servers.by["one"].marked is True


def test_a_server_that_refuses_is_left_out_and_blocks_nobody(servers: Servers, first: str) -> None:
    servers.by["two"].refuses_loads = True
    second = servers.names[1]
    servers.put_up(second, first)
    assert servers.fleet.placed(second) == ["one", "three"]
    assert servers.fleet.placed(first) == ["one", "three", "two"]
    servers.tend(first, second)
    assert servers.by["two"].marked is False
    servers.by["two"].refuses_loads = False
    for _ in range(4):
        servers.tend(first, second)
    assert servers.fleet.placed(second) == ["one", "three", "two"]
    assert servers.by["two"].marked is True


def test_one_that_will_not_load_is_tried_less_and_less_often(servers: Servers, first: str) -> None:
    second, tried = servers.names[1], 0
    broken = servers.by["two"]

    def refuse(release: str) -> None:
        nonlocal tried
        tried += 1
        raise PermanentError("no")

    broken.load = refuse  # type: ignore[method-assign]
    servers.put_up(second, first)
    for _ in range(100):
        servers.tend(first, second)
    assert 5 < tried < 12


def test_a_release_that_most_refuse_is_refused_and_taken_out_everywhere(servers: Servers, first: str) -> None:
    for name in ("one", "two"):
        servers.by[name].refuses_loads = True
    with pytest.raises(PermanentError):
        servers.put_up(servers.names[1], first)
    assert all(server.loaded() == {first} for server in servers.by.values())


def test_with_too_few_to_ask_a_release_waits(servers: Servers, first: str) -> None:
    for name in ("one", "two"):
        servers.by[name].away = True
    with pytest.raises(TemporaryError):
        servers.put_up(servers.names[1], first)
    assert servers.by["three"].loaded() == {first}


def test_a_new_server_is_not_waited_for(servers: Servers, first: str) -> None:
    servers.there = ["one", "two", "three", "four", "five", "six", "seven"]
    for name in servers.there[3:]:
        servers.by[name] = SmallTriton(servers.store.models)
        servers.by[name].away = True
    servers.put_up(servers.names[1], first)
    assert servers.fleet.placed(servers.names[1]) == ["one", "three", "two"]


def test_one_that_lies_is_found_out_before_and_after_it_is_routed_to(servers: Servers, first: str) -> None:
    servers.there = ["one", "two", "three", "liar"]
    servers.by["liar"] = SmallTriton(servers.store.models)
    servers.by["liar"].off = 0.1
    servers.by["two"].off = 0.1
    servers.tend(first)
    assert servers.fleet.placed(first) == ["one", "three"]
    assert (servers.by["liar"].marked, servers.by["two"].marked) == (False, False)
    servers.by["two"].off = 0.0
    for _ in range(3):
        servers.tend(first)
    assert servers.fleet.placed(first) == ["one", "three", "two"]


def test_a_dead_model_process_is_loaded_anew(servers: Servers, first: str) -> None:
    servers.by["one"].dead.add(first)
    assert servers.tend(first) == [first]
    assert servers.by["one"].loads == [first, first]
    assert servers.fleet.placed(first) == ["one", "three", "two"]


def test_when_nobody_can_be_reached_from_here_gateways_may_still_try(servers: Servers, first: str) -> None:
    for server in servers.by.values():
        server.away = True
    servers.tend(first)
    assert servers.fleet.placed(first) == ["one", "three", "two"]
    servers.by["one"].away = False
    servers.tend(first)
    assert servers.fleet.placed(first) == ["one"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s, first: s.put_up(s.names[1], first), id="put up"),
        pytest.param(lambda s, first: s.fleet.unload_everywhere(first), id="unload"),
        pytest.param(lambda s, first: s.fleet.tidy((), lambda name: True), id="tidy"),
        pytest.param(lambda s, first: s.tend(first, s.names[1]), id="tend"),
    ],
)
def test_who_does_not_lead_any_more_changes_no_server(
    servers: Servers, first: str, change: Callable[[Servers, str], object]
) -> None:
    servers.leads = False
    with contextlib.suppress(TemporaryError):
        change(servers, first)
    assert all(server.loaded() == {first} for server in servers.by.values())


def test_what_should_not_be_there_is_taken_out(servers: Servers, first: str) -> None:
    servers.by["one"].load(servers.names[1])
    assert servers.fleet.tidy({first}, lambda name: True) == [servers.names[1]]
    assert servers.by["one"].loaded() == {first}
