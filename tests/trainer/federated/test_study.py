"""A federation in one process, against shops alone and against one learner of all data."""

from itertools import chain
from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.trainer.archive_writer import Archive
from services.trainer.evaluation.planted.log import PlantedSource
from services.trainer.evaluation.planted.plan import Plan
from services.trainer.evaluation.planted.shop import happen
from services.trainer.federated.study import ALONE, CENTRAL, Federation, Options, Together, study

SETTINGS = {"loss_weights": {"click": 1.0}, "row_dim": 8, "max_rows": 5_000}


def shops(folder: Path, lists: int = 900, count: int = 3) -> dict[str, Path]:
    """One planted shop, its shoppers dealt to several."""
    happened = happen(Plan(seed=1, lists=lists, shoppers=60, items=60))
    out = {}
    for k in range(count):
        source, path = PlantedSource(happened, rows=16, shoppers=range(k, 60, count)), folder / f"shop{k}"
        kept = Archive(path)
        while (batch := source.poll()) is not None:
            kept.add(batch)
        kept.describe(source.spec)
        kept.flush()
        out[f"shop{k}"] = path
    return out


def test_a_federation_of_one_and_the_learner_of_all_are_that_shop_alone(tmp_path: Path) -> None:
    found = study(shops(tmp_path, count=1), [Federation("fedavg", SETTINGS)], Options(3), tmp_path / "work")
    assert found[ALONE]["auc"] == found[CENTRAL]["auc"] == found["fedavg"]["auc"]
    assert found["fedavg"]["mrr_difference"]["value"] == 0


def test_all_data_beat_shops_alone_and_every_way_judges_the_same_lists(tmp_path: Path) -> None:
    of = shops(tmp_path, lists=2_400)
    seen: list[tuple[str, int]] = []
    report = lambda way, number: seen.append((way, number))  # noqa: E731
    found = study(of, [Federation("fedavg", SETTINGS)], Options(8), tmp_path / "work", report)
    assert found[CENTRAL]["auc"]["value"] > found[ALONE]["auc"]["value"] + 0.02
    assert len({way["auc"]["lists"] for way in found.values()}) == 1
    assert len(found["fedavg"]["rounds"]) == 8
    assert set(found["fedavg"]["shops"]) == set(of)
    assert seen[-1] == ("fedavg", 8)


def test_archives_together_are_every_message_once_and_keep_pace(tmp_path: Path) -> None:
    of = shops(tmp_path, lists=400, count=2)
    together, taken = Together(list(of.values()), [20, 7]), list[bytes]()
    while (batch := together.poll()) is not None:
        taken += chain(*batch.messages.values())
    assert len(taken) == len(set(taken)) > 0


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="folder"):
        study(shops(tmp_path, 100, 1), [Federation("fedavg", SETTINGS)], Options(2), tmp_path)
