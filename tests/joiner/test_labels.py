"""Heads as a setting, sampling, and the settings of the service."""

import asyncio
from pathlib import Path

import pytest

from services.common.clock import ManualClock
from services.common.errors import CorruptState, InvalidInput
from services.common.metrics import Metrics
from services.common.settings import load_settings
from services.common.topics import DEAD_LETTERS, EXAMPLES
from services.joiner.kafka import JoinerStage
from services.joiner.labels import Heads
from services.joiner.meters import Meters
from services.joiner.sample import Sampling
from services.joiner.settings import JoinerSettings
from tests.joiner.makers import MINUTE, SECOND, T0, action, examples, forget, impression_id, log, rules, shown

KEYS = "1:" + "6b" * 16
EXAMPLES_TOTAL = "freshrank_joiner_examples_total"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "out_of_range", id="no head"),
        pytest.param("click", "malformed", id="no kind"),
        pytest.param("click=CLICK", "malformed", id="no window"),
        pytest.param("click=CLICK@0m", "out_of_range", id="empty window"),
        pytest.param("click=CLICK@10y", "malformed", id="unknown unit"),
        pytest.param("click=TAP@10m", "unknown_kind", id="unknown kind"),
        pytest.param("click=UNSPECIFIED@10m", "unknown_kind", id="no kind of event"),
        pytest.param("click=RATE:stars>=4@10m", "malformed", id="unknown column"),
        pytest.param("click=RATE:rating>4@10m", "malformed", id="unknown comparison"),
        pytest.param("a=CLICK@1m;a=LIKE@1m", "malformed", id="one name twice"),
        pytest.param(";".join(f"{c}=CLICK@1m" for c in "abcdefghi"), "out_of_range", id="nine heads"),
    ],
)
def test_heads_that_cannot_be_read_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Heads.parse(text)
    assert (caught.value.field, caught.value.reason) == ("heads", reason)


def test_windows_close_one_by_one() -> None:
    heads = Heads.parse("click=CLICK@10s; cart=ADD_TO_CART@1m; purchase=PURCHASE@1h")
    assert [heads.open_at(age * SECOND) for age in (0, 9, 10, 59, 60, 3599, 3600)] == [7, 7, 6, 6, 4, 4, 0]
    assert (heads.close_us, heads.longest_us) == (10 * SECOND, 3600 * SECOND)


def test_the_share_that_is_kept_is_the_rate() -> None:
    sampling = Sampling(rate=0.2)
    kept = sum(sampling.keeps(impression_id(n), "item") for n in range(5000))
    assert 900 < kept < 1100


def test_settings_become_rules_and_wrong_ones_are_refused_by_name() -> None:
    made = JoinerSettings(token_keys=KEYS, heads="click=VIEW@1h", sample_rate=0.5).rules()
    assert (made.join.heads.close_us, made.join.sampling.rate) == (3_600_000_000, 0.5)
    with pytest.raises(InvalidInput) as caught:
        JoinerSettings().rules()
    assert caught.value.field == "FRESHRANK_JOINER_TOKEN_KEYS"


@pytest.mark.parametrize(
    ("name", "value"),
    [("HEADS", "click=TAP@1m"), ("TOKEN_KEYS", "1:zz"), ("SAMPLE_RATE", "0"), ("UNSHOWN_ITEMS", "-1"), ("HEAD", "x")],
)
def test_a_bad_variable_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"FRESHRANK_JOINER_{name}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput) as caught:
        load_settings(JoinerSettings)
    assert caught.value.field == variable


class Broker:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, bytes | None]] = []

    def send(
        self, topic: str, value: bytes | None, *, partition: int = -1, key: bytes | None = None
    ) -> "asyncio.Future[tuple[int, int]]":
        """As the real outbox does it."""
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self.sent.append((topic, partition, value))
        future.set_result((partition, 0))
        return future


async def test_the_stage_writes_examples_and_letters_and_counts_them(tmp_path: Path) -> None:
    broker, metrics = Broker(), Metrics("joiner")
    stage = JoinerStage(rules(), tmp_path, broker, Meters(metrics), ManualClock(T0 + 3 * SECOND))  # type: ignore[arg-type]
    on = stage.open(2, None)
    out = on.apply(log([shown(), action(), action(token="bad")]))
    await stage.emit(2, out)
    on.snapshot()
    assert [(topic, partition) for topic, partition, _ in broker.sent] == [(EXAMPLES.name, 2), (DEAD_LETTERS.name, 0)]
    value = metrics.registry.get_sample_value
    assert value("freshrank_joiner_examples_total", {"kind": "flip"}) == 1
    assert value("freshrank_joiner_actions_total", {"outcome": "bad_token"}) == 1
    assert value("freshrank_joiner_open_impressions", {"partition": "2"}) == 1
    assert value("freshrank_joiner_spill_bytes", {"partition": "2"}) > 0
    assert value("freshrank_joiner_freshness_seconds_count") == 2


async def test_a_wish_to_be_forgotten_is_counted_like_every_row(tmp_path: Path) -> None:
    metrics = Metrics("joiner")
    stage = JoinerStage(rules(), tmp_path, Broker(), Meters(metrics), ManualClock(T0))  # type: ignore[arg-type]
    out = stage.open(0, None).apply(log([shown(), action(), forget("ada", T0 + MINUTE)]))
    await stage.emit(0, out)
    found = {kind: metrics.registry.get_sample_value(EXAMPLES_TOTAL, {"kind": kind}) for kind in ("initial", "forget")}
    assert found == {"initial": 1, "forget": 1}


async def test_a_stage_whose_spill_file_is_lost_reads_the_log_again(tmp_path: Path) -> None:
    stage = JoinerStage(rules(), tmp_path, Broker(), Meters(Metrics("joiner")), ManualClock(T0))  # type: ignore[arg-type]
    rows = log([shown(), action()])
    on = stage.open(0, None)
    first = on.apply(rows)
    snapshot = on.snapshot()
    assert stage.open(0, snapshot).next_offset == 2
    for file in tmp_path.iterdir():
        file.unlink()
    again = stage.open(0, snapshot)
    assert again.next_offset == 0
    assert examples(again.apply(rows)) == examples(first)


async def test_after_a_reshard_a_lost_spill_file_is_a_fault(tmp_path: Path) -> None:
    meters = Meters(Metrics("joiner"))
    stage = JoinerStage(rules(), tmp_path, Broker(), meters, ManualClock(T0), needed=True)  # type: ignore[arg-type]
    on = stage.open(0, None)
    on.apply(log([shown(), action()]))
    snapshot = on.snapshot()
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(CorruptState, match="interactions-0: the spill file does not fit"):
        stage.open(0, snapshot)
