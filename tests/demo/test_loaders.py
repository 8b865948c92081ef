"""What a loader makes of a log is taken by the gateway."""

from pathlib import Path

from services.demo.loaders import ml_100k
from services.demo.loaders.steps import Ask, Stock
from services.gateway import track


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
