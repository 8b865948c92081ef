"""Settings, the emitter, the breaker, the ladder: what holds the service together."""

import asyncio
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import pytest
from freshrank.v1.events_pb2 import Inbound

from services.common.errors import InvalidInput, PermanentError, TemporaryError
from services.common.kafka import Ack, Outbox
from services.common.settings import load_settings
from services.gateway.app import check
from services.gateway.breaker import Breaker
from services.gateway.emit import MOST_WAITING, Emitter
from services.gateway.impressions import RecentAnswers
from services.gateway.kafka import Sender
from services.gateway.ladder import LastSeen
from services.gateway.retrieve import Covisits
from services.gateway.settings import GatewaySettings
from services.gateway.shopper import no_pairs, unknown
from tests.gateway.shop import NOW, Shop, budget
from tests.gateway.test_rank import ADA, call

BAD_SETTINGS = {
    "no token keys": {},
    "short key": {"token_keys": "1:abcd"},
    "key without id": {"token_keys": "ab" * 16},
    "port in words": {"port": "high"},
    "port too high": {"port": "70000"},
    "no workers": {"workers": "0"},
    "workers on a random port": {"workers": "2", "port": "0", "token_keys": "1:" + "ab" * 16},
    "unknown clock": {"clock": "sundial"},
    "too much exploration": {"explore": "0.9"},
    "negative rate": {"user_rate": "-1"},
    "deadline of nothing": {"deadline_ms": "0"},
    "certificate without key": {"tls_cert": "cert.pem", "token_keys": "1:" + "ab" * 16},
    "unknown level": {"log_level": "LOUD"},
}


@pytest.mark.parametrize("values", BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_a_bad_setting_stops_the_start_and_is_named(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"FRESHRANK_GATEWAY_{name.upper()}", value)
    with pytest.raises(InvalidInput):
        check(load_settings(GatewaySettings))


def test_good_settings_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHRANK_TOKEN_KEYS", "1:" + "ab" * 16)
    check(load_settings(GatewaySettings))


@pytest.mark.parametrize("fault", [None, PermanentError("fenced")])
def test_a_producer_that_is_broken_for_good_ends_the_process(fault: PermanentError | None) -> None:
    class Broken(Outbox):
        def __init__(self) -> None:
            self._fault = fault

    sender = Sender(Broken(), 1, dict)
    with pytest.raises(PermanentError, match="fenced") if fault else nullcontext():
        sender.check()


class Log:
    """Takes impressions; answers when told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Inbound]] = []
        self.came = asyncio.Event()
        self.futures: list[asyncio.Future[Ack]] = []

    def send(self, user: str, inbound: bytes) -> "asyncio.Future[Ack]":
        """One more."""
        self.sent.append((user, Inbound.FromString(inbound)))
        self.came.set()
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


async def test_impressions_leave_after_the_answer_and_all_of_them_before_the_end(tmp_path: Path) -> None:
    shop, log = Shop(tmp_path), Log()
    await shop.ranker.rank(call("i1"), budget())
    emitter = Emitter(log.send, RecentAnswers(10), shop.meters)
    emitter(shop.served[0])
    assert not log.sent
    emitter.flush()
    ((user, inbound),) = log.sent
    assert (user, inbound.received_us, inbound.impression.user_id) == ("ada", NOW, "ada")
    assert emitter.waiting == 1
    log.futures[0].set_result((0, 0))
    await asyncio.sleep(0)
    assert emitter.waiting == 0
    assert shop.meters.registry.get_sample_value("freshrank_gateway_impressions_total", {"outcome": "sent"}) == 1


async def test_impressions_leave_together_in_the_order_served_also_those_built_before(tmp_path: Path) -> None:
    shop, log = Shop(tmp_path), Log()
    for user in ("ada", "bob", "cyd"):
        await shop.ranker.rank(call("i1", caller=replace(ADA, user=user)), budget())
    emitter = Emitter(log.send, RecentAnswers(10), shop.meters, gather_s=0.01)
    emitter(shop.served[0])
    emitter.build()
    emitter.build()  # there is nothing left: a quiet moment costs nothing
    assert not log.sent
    for served in shop.served[1:]:
        emitter(served)
    assert emitter.waiting == 3
    await asyncio.wait_for(log.came.wait(), 10)
    assert [user for user, _ in log.sent] == ["ada", "bob", "cyd"]
    assert [inbound.impression.impression_id for _, inbound in log.sent] == [s.impression_id for s in shop.served]


async def test_each_impression_carries_the_context_of_its_own_call(tmp_path: Path) -> None:
    shop, trace = Shop(tmp_path), ContextVar[str]("trace")
    await shop.ranker.rank(call("i1"), budget())
    seen: list[str] = []

    def send(user: str, inbound: bytes) -> "asyncio.Future[Ack]":
        seen.append(trace.get())
        return asyncio.get_running_loop().create_future()

    emitter = Emitter(send, RecentAnswers(10), shop.meters, gather_s=60)
    for name in ("first", "second", "third"):
        trace.set(name)
        emitter(shop.served[0])
    emitter.flush()
    assert seen == ["first", "second", "third"]


async def test_more_impressions_than_can_wait_are_counted_as_lost(tmp_path: Path) -> None:
    shop, log = Shop(tmp_path), Log()
    await shop.ranker.rank(call("i1"), budget())
    emitter = Emitter(log.send, RecentAnswers(1), shop.meters)
    for _ in range(MOST_WAITING + 2):
        emitter(shop.served[0])
    emitter.flush()
    assert len(log.sent) == emitter.waiting == MOST_WAITING
    assert shop.meters.registry.get_sample_value("freshrank_gateway_impressions_total", {"outcome": "lost"}) == 2


async def test_an_impression_the_log_refuses_is_counted_not_raised(tmp_path: Path) -> None:
    shop, log = Shop(tmp_path), Log()
    await shop.ranker.rank(call("i1"), budget())
    emitter = Emitter(log.send, RecentAnswers(10), shop.meters)
    emitter(shop.served[0])
    emitter.flush()
    log.futures[0].set_exception(TemporaryError("no broker"))
    await asyncio.sleep(0)
    assert shop.meters.registry.get_sample_value("freshrank_gateway_impressions_total", {"outcome": "lost"}) == 1


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try() -> None:
    breaker = Breaker(limit=2, rest_s=10)
    breaker.failed(0)
    breaker.worked()
    breaker.failed(1)
    assert breaker.allows(1)
    breaker.failed(2)
    assert [breaker.allows(now) for now in (3, 11.9, 12, 12.1, 22)] == [False, False, True, False, True]
    breaker.worked()
    assert breaker.allows(13)


def test_the_last_seen_are_bounded_in_number_and_age() -> None:
    seen = LastSeen(limit=2, hold_us=100)
    for user in ("a", "b", "c"):
        seen.put(user, "", "columns", unknown(1, no_pairs(0, 0, 0)), 1_000)
    assert seen.get("a", "", "columns", 1_000) is None
    assert seen.get("c", "", "columns", 1_050) is not None
    assert seen.get("c", "", "columns", 1_101) is None
    assert seen.get("c", "", "other columns", 1_000) is None
    seen.forget("c")
    assert seen.get("c", "", "columns", 1_000) is None


def test_what_is_seen_together_is_bounded_too() -> None:
    visits = Covisits(items=3, neighbours=2, sessions=2)
    for session in range(20):
        for item in range(6):
            visits.saw(str(session), f"i{(item * session) % 6}")
    assert len(visits._counts) <= 3
    assert all(len(counts) <= 2 for counts in visits._counts.values())
    assert len(visits._last) <= 2
