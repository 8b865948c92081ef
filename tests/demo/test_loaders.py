"""What a loader makes of a log is taken by the gateway."""

from pathlib import Path

import pytest
from freshrank.v1.events_pb2 import Event, EventKind

from services.common.settings import load_settings
from services.demo.loaders import LOADERS, ml_100k
from services.demo.loaders.steps import Ask, Stock
from services.demo.oracle.heads import DEFAULT, heads_of
from services.demo.replay import took
from services.gateway import track
from services.joiner.labels import Heads
from services.joiner.settings import JoinerSettings
from services.trainer.settings import TrainerSettings


def test_ratings_become_requests_and_events_that_the_gateway_takes(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n7\tA Film\t1995\tDrama Thriller\n"
    )
    (tmp_path / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "5\t7\t3\t891717742\n6\t7\t4\t874724710\n6\t8\t2\t874724710\n"
    )
    stock, *asks = ml_100k.steps(tmp_path)
    assert isinstance(stock, Stock)
    assert (stock.items[0].title, list(stock.items[0].categories)) == ("A Film", ["drama", "thriller"])
    assert [ask.shopper.user_id for ask in asks if isinstance(ask, Ask)] == ["m6", "m5"], "in order of time"
    pages = [[c.item_id for c in ask.candidates] for ask in asks if isinstance(ask, Ask)]
    assert pages == [["7", "8"], ["7"]], "what was rated in one second was on one page"
    for ask in asks:
        assert isinstance(ask, Ask)
        assert [event.item_id for event in ask.events] == [c.item_id for c in ask.candidates]
        for event in ask.events:
            track.check(event, event.event_time_us)


@pytest.mark.parametrize("name", LOADERS)
def test_the_settings_of_a_log_give_trainer_and_joiner_the_same_heads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in LOADERS[name].settings.items():
        monkeypatch.setenv(variable, value)
    joiner, trainer = load_settings(JoinerSettings), load_settings(TrainerSettings)
    heads = [head.name for head in Heads.parse(joiner.heads).heads]
    assert heads == list(trainer.loss_weights) == list(trainer.objective)


def test_a_film_rated_four_is_liked_and_one_rated_three_is_not() -> None:
    heads = Heads.parse(LOADERS["ml-100k"].settings["FRESHRANK_JOINER_HEADS"])
    assert [heads.fired(EventKind.EVENT_KIND_RATE, {"rating": stars}) for stars in (3.0, 4.0)] == [0, 1]
    rated = [Event(kind=EventKind.EVENT_KIND_RATE, rating=stars) for stars in (3.0, 4.0)]
    assert [took(event) for event in rated] == [False, True], "the report counts the same"


@pytest.mark.parametrize(
    "text", [DEFAULT, *(log.settings.get("FRESHRANK_JOINER_HEADS", "") for log in LOADERS.values())]
)
def test_the_oracle_reads_the_heads_as_the_joiner_does(text: str) -> None:
    theirs, ours = Heads.parse(text or DEFAULT), heads_of(text or DEFAULT)
    assert [(head.name, head.window_us) for head in ours] == [(head.name, head.window_us) for head in theirs.heads]
    for kind in EventKind.values():
        for value in (None, 0.1, 0.3, 3.9, 4.0):
            row = {"kind": kind, "rating": value, "play_share": value}
            fired = theirs.fired(kind, {"rating": value, "play_share": value})
            assert [head.fired(row) for head in ours] == [bool(fired >> bit & 1) for bit in range(len(ours))]
