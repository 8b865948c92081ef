"""No reader ever sees half a record, however fast the writer is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.gateway.blocks import Block, values_dtype

WRITER = """
import sys, numpy as np
from pathlib import Path
from services.gateway.blocks import Block, values_dtype
block = Block(Path(sys.argv[1]), "rows", values_dtype(64), 64, writable=True)
slots = np.arange(64)
print("going", flush=True)
for number in range(int(sys.argv[2])):
    records = np.zeros(64, block.dtype)
    records["seq"], records["values"] = number, number
    block.put(slots, records)
"""


@pytest.mark.parametrize("rounds", [6_000])
def test_every_record_read_while_another_process_writes_is_whole(tmp_path: Path, rounds: int) -> None:
    Block(tmp_path, "rows", values_dtype(64), 64, writable=True)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(rounds)], cwd=root, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        block, slots, seen = Block(tmp_path, "rows", values_dtype(64), 64), np.arange(64), set()
        while writer.poll() is None:
            records = block.get(slots)
            assert (records["values"] == records["seq"][:, None]).all()
            seen.add(int(records["seq"][0]))
    assert int(block.get(slots)["seq"][0]) == rounds - 1
    assert len(seen) > 10
