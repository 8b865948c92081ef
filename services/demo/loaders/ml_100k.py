"""MovieLens 100K in RecBole's form: ratings in time order."""

import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.loaders.steps import Ask, Stock, Tell

Kind = events_pb2.EventKind

LATER_US = 3_653 * 24 * 3_600 * 1_000_000
"""Ten years: the ratings are of 1997 and 1998, and times before 2000 are refused as broken clocks."""


def steps(folder: Path) -> Iterator[Ask | Tell | Stock]:
    """The catalogue, then what a person rated in one second: a request for these films, and the ratings that follow."""
    yield Stock([_item(row) for row in _rows(folder / "ml-100k.item")])
    ratings = sorted(_rows(folder / "ml-100k.inter"), key=lambda row: float(row["timestamp"]))
    number = 0
    for (second, user), rows in groupby(ratings, key=lambda row: (float(row["timestamp"]), row["user_id"])):
        page = list(rows)
        yield _page(number, f"m{user}", int(second * 1e6) + LATER_US, page)
        number += len(page)


def _page(number: int, user: str, time_us: int, rows: list[dict[str, str]]) -> Ask:
    events = [
        events_pb2.Event(
            event_id=f"ml-{number + index}",
            kind=Kind.EVENT_KIND_RATE,
            user_id=user,
            item_id=row["item_id"],
            event_time_us=time_us,
            rating=float(row["rating"]),
            source="ml-100k",
        )
        for index, row in enumerate(rows)
    ]
    films = [ranking_pb2.Candidate(item_id=row["item_id"], prior_rank=n) for n, row in enumerate(rows, 1)]
    return Ask(time_us, ranking_pb2.Shopper(user_id=user), films, events)


def _item(row: dict[str, str]) -> ranking_pb2.Item:
    genres = [genre.lower() for genre in row["class"].split()]
    return ranking_pb2.Item(item_id=row["item_id"], title=row["movie_title"], categories=genres)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t")
        names = [name.split(":")[0] for name in next(reader)]
        for row in reader:
            yield dict(zip(names, row, strict=True))
