"""Every way of learning over one archive of examples: quality against cost.

    python -m benchmarks.learning.ranking --examples <store>/arms/main/examples --out trivago.json [--only replay,ewc]

The archive is what a trainer leaves of the examples it has learned, such as of
`make demo DATA=<trivago> LOCKSTEP=1 ARGS="--folder DIR"`. A study that was broken off goes on where it was.
"""

import argparse
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from services.trainer.archive import ArchiveSource
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.evaluation.study import Settings, Study

_BASE: dict[str, Any] = {"update_interval": 86_400, "update_examples": 200}
"""A release every 200 impressions and clicks, as in a lockstep replay."""

MODELS = ("logistic", "factorisation", "embedding_sum", "two_tower", "deepfm", "dlrm", "transformer")


def trials() -> list[Trial]:
    """All that is tried; the first is what the others are compared with."""
    return [
        Trial("online", _BASE),
        Trial("frozen", _BASE, learns=False),
        *(_with(f"model {name}", model=name) for name in MODELS),
        _with("sgd", optimiser="sgd", learning_rate=0.01),
        _with("adagrad", optimiser="adagrad", learning_rate=0.03),
        _with("ftrl", optimiser="ftrl", learning_rate=0.03),
        _with("accumulate 4", accumulate=4),
        _with("hypergradient", strategy="hypergradient()"),
        _with("drift step", strategy="drift_step()"),
        _with("replay 20 %", strategy="replay(2000, 0.2)"),
        _with("replay 50 %", strategy="replay(2000, 0.5)"),
        _with("replay 80 %", strategy="replay(2000, 0.8)"),
        _with("ewc 10", strategy="ewc(10)"),
        _with("ewc 1000", strategy="ewc(1000)"),
        _with("fusion 0.7", strategy="fusion(0.7)"),
        _with("fusion 0.3", strategy="fusion(0.3)"),
        _with("fusion chosen", strategy="fusion_chosen()", hold_out=0.1),
        _with("hold out 10 %", hold_out=0.1),
        _with("distillation 0.3", strategy="distillation(0.3, 2)"),
        _with("distillation 0.7", strategy="distillation(0.7, 2)"),
        _with("top layers", strategy="layers(top)"),
        _with("biases", strategy="layers(biases)"),
        _with("lora 4", strategy="lora(4, 8)"),
        _with("adalora 8", strategy="adalora(8, 0.5)"),
        _with("adversarial", strategy="adversarial(0.1, 0.5)"),
        _with("co-clicks", strategy="co_clicks(0.01)"),
        _with("pairwise", strategy="pairwise(0.3)"),
        _with("listwise", strategy="listwise(0.3)"),
        _with("pseudo-labels", strategy="pseudo_labels()"),
        _with("replay + distillation", strategy="replay(2000, 0.5), distillation(0.3, 2)"),
        _with("replay + ewc", strategy="replay(2000, 0.5), ewc(10)"),
        _with("augmented", strategy="augmentation(mask, 0.5)"),
        _with("epochs at releases", labels="at_release", strategy="epochs(3, 4)", hold_out=0.1),
        _with("epochs beside", strategy="epochs(1, 4)", hold_out=0.1),
        _with("labels waited for", labels="waiting"),
        _with("fake negatives weighed", labels="fake_negatives"),
        _with("fake negatives calibrated", labels="calibrated"),
        _with("focal 2", loss="focal(2)"),
        _with("focal 1", loss="focal(1)"),
        _with("smoothed 0.05", loss="smoothed(0.05)"),
        _with("clicks weigh 3", loss="weighted(3)"),
        _with("reweighted 0.2", loss="reweighted(0.2)"),
        _with("truncated 0.01", loss="truncated(0.01)"),
        _with("position debiased", position_power=0.5),
        _with("no row dropout", row_dropout=0.0),
        _with("small steps", batch_impressions=5, batch_items=96),
    ]


def _with(name: str, **changes: Any) -> Trial:
    return Trial(name, {**_BASE, **changes})


def line(name: str, found: dict[str, Any]) -> str:
    """One result for people."""
    change = found["mrr_difference"]
    return (
        f"{name:24} AUC {found['auc']['value']:.4f}  MRR {found['mrr']['value']:.4f} "
        f"({change['value']:+.4f} [{change['lower']:+.4f}, {change['upper']:+.4f}])  "
        f"log-loss {found['log_loss']['value']:.4f}  {found['seconds_per_1000']:.2f} s per 1,000"
    )


def main() -> int:
    """Run what is missing, print all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=Path, required=True, help="folder of an archive of examples")
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results so far; goes on from it")
    parser.add_argument("--only", default="", help="names, apart by commas; the first way is always run")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    chosen = [trial for k, trial in enumerate(trials()) if not wanted or k == 0 or trial.name in wanted]
    for trial in chosen:
        # Each in a process of its own: the peak of its memory is its own, too.
        one = get_context("spawn").Process(target=_run, args=(options.examples, options.out, [chosen[0], trial]))
        one.start()
        one.join()
        if one.exitcode:
            return 1
    return 0


def _run(examples: Path, out: Path, wanted: list[Trial]) -> None:
    study = Study(out, ArchiveSource(examples), Settings(lags=(0.0, 60.0, 600.0, 3600.0)))
    study.run(wanted, lambda name, messages: None)
    print(line(wanted[-1].name, study.results[wanted[-1].name]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
