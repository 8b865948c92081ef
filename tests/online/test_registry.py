"""Feast's configuration of a repository: one that cannot be used is named."""

from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.online.registry import repo_config

BAD = {
    "no file": None,
    "empty": "",
    "not YAML": "registry: [",
    "no registry": "project: shop",
    "registry in words": "project: shop\nregistry: here",
    "project that is a number": "project: 7\nregistry: {}",
    "unknown store": "project: shop\nregistry: {}\nonline_store: {type: nowhere.Store}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_folder_that_holds_no_feature_store_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "feature_store.yaml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        repo_config(tmp_path, {})
    assert caught.value.field == str(tmp_path / "feature_store.yaml")
    assert "\n" not in str(caught.value)


def test_variables_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: {registry_type: file, path: '${FRESHRANK_REGISTRY}'}"
    )
    assert repo_config(tmp_path, {"FRESHRANK_REGISTRY": "/there.db"}).registry.path == "/there.db"
