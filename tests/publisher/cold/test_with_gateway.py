"""What the publisher sends of a new item is what a gateway ranks it by; well-known items keep every bit."""

from pathlib import Path

import numpy as np

from services.gateway.candidates import RowSlot, item_rows
from services.gateway.table_writer import Origin, TableWriter
from tests.publisher.cold.parts import DIM, Shop

HOUR = 3_600_000_000
WARM = 200


def test_a_gateway_ranks_a_new_item_by_the_row_of_its_text(tmp_path: Path) -> None:
    shop = Shop(tmp_path, announced=True)
    known = shop.learn(0, WARM, 200)
    writer = TableWriter(tmp_path / "table", Origin("log", "boot"))
    slot = RowSlot("a", DIM, 1)

    def rows() -> tuple[np.ndarray, list[bool], np.ndarray]:
        writer.apply([(key, value) for _, _, _, key, value in shop.log.records if key])
        table = writer.reader()
        found = item_rows(table, slot, table.slots([shop.ids[0], shop.ids[-1]]))
        return found.values, found.mask.tolist(), found.time_us

    before, there, _ = rows()
    assert there == [True, False]
    shop.settle(HOUR)
    after, there, times = rows()
    assert there == [True, True]
    assert times.tolist() == [1_000_000, 0]
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[0], known.rows[0])
    assert np.linalg.norm(after[1] - shop.true[-1]) < np.linalg.norm(shop.true[-1])
