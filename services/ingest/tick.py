"""Ticks: the log clock goes on when nobody does anything, so windows and timers do too."""

from collections.abc import Iterable, Mapping

from services.common import records
from services.ingest.draft import COLUMNS, of_tick, row_of


def tick_message(time_us: int) -> bytes:
    """One tick as a message of interactions.

    >>> records.decode(tick_message(9)).column("time_us").to_pylist()
    [9]
    """
    row = row_of(of_tick(-1, time_us))
    columns: dict[str, object] = {name: [value] for name, value in zip(COLUMNS, row, strict=True)}
    return records.encode(records.batch_of(records.INTERACTIONS, columns))


class Ticker:
    """When which partition is due a tick.

    A partition that is behind gets none: its own records move its clock, and a tick with the time of day would
    close windows over events that wait in the log. `slack_us` leaves room for records on their way to the broker.
    """

    def __init__(self, slack_us: int) -> None:
        self._slack_us = slack_us
        self._last: dict[int, int] = {}

    def due(
        self, now_us: int, positions: Mapping[int, int], ends: Mapping[int, int | None]
    ) -> Iterable[tuple[int, int]]:
        """Partition and time of each tick to write now, given applied positions and the ends of the log."""
        for partition, position in positions.items():
            end, time_us = ends.get(partition), now_us - self._slack_us
            if end is not None and position >= end and time_us > self._last.get(partition, 0):
                self._last[partition] = time_us
                yield partition, time_us
