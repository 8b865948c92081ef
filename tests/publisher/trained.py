"""A model store as the trainer leaves it, with a release of the usual widths: for measuring.

    python -m tests.publisher.trained FOLDER [--impressions 6000]

Leaves `arms/main/exports/<release>`, the row deltas, and `examples.json` with the impressions that came after the
release: nothing has learned from them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from services.common.spec import FeatureRef
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import arm, run, settings
from tests.trainer.world import SPEC, FileSource, Shop, write_logs

WIDE = replace(
    SPEC,
    user_features=tuple(FeatureRef(100 + k, f"user_{k}", "user_stats") for k in range(12)),
    item_features=SPEC.item_features + tuple(FeatureRef(200 + k, f"item_{k}", "item_stats") for k in range(21)),
    row_dim=16,
    history_length=20,
)
LEFT_OUT = 1_000


def store(folder: Path, impressions: int) -> Path:
    """Train and export; returns the folder of the last release."""
    torch.set_num_threads(1)
    shop = Shop(seed=1, items=400, users=200, listed=24, spec=WIDE)
    seen, later = shop.messages(impressions), shop.messages(LEFT_OUT)
    source = FileSource({0: seen}, sizes=(20,))
    chosen = settings(row_dim=16, max_rows=20_000, batch_items=384, retrieval_dim=32, warmup_impressions=500)
    trigger = VolumeTrigger(impressions)  # examples: impressions and clicks, so about two releases
    loop, clock = arm(folder, source, trigger=trigger, wanted=lambda: WIDE, chosen=chosen)
    run(loop, clock, source)
    write_logs(folder / "examples.json", {0: later})
    return max((folder / "arms" / "main" / "exports").iterdir())


def main() -> None:
    """Write a store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--impressions", type=int, default=6_000)
    given = parser.parse_args()
    print(store(given.folder, given.impressions))


if __name__ == "__main__":
    main()
