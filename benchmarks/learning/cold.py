"""Items before their first click, with and without rows from their texts.

    python -m benchmarks.learning.cold --data <online-retail> --out FILE.json [--seeds 2] [--only retail,world]

- `retail`: new StockCodes. The default model learns a year of invoices in order of time, in the trainer's own steps;
  each list was drawn, so all ways see the same. From day 90 on every eighth visit is ranked beforehand: the whole
  catalogue, once for each way of giving rows to items with little evidence, by the same model at the same moment. The
  map from titles to rows is fitted anew every day. Twice: with streaming counts of sales, and without, when rows alone
  know what is liked.
- `world`: the demo's simulator, closed: shoppers answer what they are shown, and that is what is learned. A shop with
  rows from texts and one without, of the same seed; ten new items a day.

A run that was broken off goes on where it was.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.learning import cold_retail, cold_world
from benchmarks.learning.cold_shop import Shop, load
from benchmarks.machine import commit, machine, write_json
from services.demo.cache import Progress, default_folder
from services.demo.encoder import provide
from services.publisher.onnx_file import OnnxModel
from services.text.folder import INPUTS, OUTPUT, Tokenizer

Floats = NDArray[np.float32]


class Encoder:
    """The packaged one, on one thread; each text once."""

    def __init__(self, folder: Path) -> None:
        self._tokens, self._model = Tokenizer.of(folder), OnnxModel(folder / "model.onnx")

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Vectors [n, dim]."""
        parts = []
        for start in range(0, len(texts), 32):
            arrays = dict(zip(INPUTS, self._tokens.items(texts[start : start + 32]), strict=True))
            parts.append(self._model.tensors([OUTPUT], arrays)[OUTPUT])
        return np.concatenate(parts).astype(np.float32)


def tasks(data: Path | None, encoder: Encoder, seeds: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Key and run of each result."""
    if data is not None:
        shop: list[tuple[Shop, Floats]] = []

        def retail(counts: bool, seed: int) -> dict[str, Any]:
            if not shop:
                found = load(data)
                shop.append((found, encoder(found.titles)))
            shop[0][0].counts = counts
            return cold_retail.replay(*shop[0], seed, 8, lambda visits: print(visits, file=sys.stderr, flush=True))

        for seed in range(1, seeds + 1):
            yield f"retail/rows alone/{seed}", partial(retail, False, seed)
            yield f"retail/with counts/{seed}", partial(retail, True, seed)
    for seed in range(1, 3 * seeds + 1):
        for way in cold_world.WAYS:
            yield f"world/{way}/{seed}", partial(cold_world.live, way, seed, encoder)


def main() -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of online-retail; without it the simulator alone")
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results so far; goes on from it")
    parser.add_argument("--seeds", type=int, default=2, help="of retail; the simulator has three times as many")
    parser.add_argument("--only", default="", help="studies, apart by commas: retail, world")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(options.out.read_text())["results"] if options.out.exists() else {}
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    encoder = Encoder(provide(default_folder(os.environ), Progress(show_present=False)))
    for key, run in tasks(options.data, encoder, options.seeds):
        if key not in found and (not wanted or key.partition("/")[0] in wanted):
            found[key] = run()
            write_json(options.out, {"commit": commit(), "machine": machine(), "results": found})
            print(key, file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
