"""MovieLens in the atomic files of RecBole: ratings in time order, what is said of users and items."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """Ratings sorted by time; ties stay in the order of the file."""

    users: list[str]
    items: list[str]
    ratings: Floats
    times_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)


def read(path: Path) -> dict[str, list[str]]:
    """Columns by name, of a tab-separated file whose header says `name:type`."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = [name.partition(":")[0] for name in rows[0]]
    return {name: list(column) for name, column in zip(names, zip(*rows[1:], strict=True), strict=True)}


def log_of(folder: Path, first: int | None = None) -> Log:
    """`ml-100k.inter` of a folder; `first` keeps so many ratings."""
    columns = read(folder / "ml-100k.inter")
    times = np.array(columns["timestamp"], np.float64)
    order = np.argsort(times, kind="stable")[:first]
    return Log(
        [columns["user_id"][k] for k in order],
        [columns["item_id"][k] for k in order],
        np.array(columns["rating"], np.float64)[order],
        (times[order] * 1e6).astype(np.int64),
    )


def items_of(folder: Path) -> tuple[list[str], Floats]:
    """Ids and features: genres, of length 1 together, and the year in units of about 30 around 1990."""
    columns = read(folder / "ml-100k.item")
    genres = sorted({genre for text in columns["class"] for genre in text.split()})
    marks = np.array([[float(genre in text.split()) for genre in genres] for text in columns["class"]])
    marks /= np.sqrt(np.maximum(marks.sum(axis=1, keepdims=True), 1))
    years = np.array(
        [float(text) if text.isdigit() and int(text) > 1900 else 1994.0 for text in columns["release_year"]]
    )
    return columns["item_id"], np.hstack([marks, (years[:, None] - 1990) * 0.03])


def users_of(folder: Path) -> tuple[list[str], Floats]:
    """Ids and features: age in units of about its deviation, and gender as -1 or 1."""
    columns = read(folder / "ml-100k.user")
    ages = (np.array(columns["age"], np.float64) - 33) / 12
    women = np.array([1.0 if gender == "F" else -1.0 for gender in columns["gender"]])
    return columns["user_id"], np.stack([ages, women], axis=1)
