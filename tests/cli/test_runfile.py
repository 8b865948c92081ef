"""run.json: the addresses of a running demo."""

import stat
from pathlib import Path

import pytest

from services.cli.settings import load
from services.common.errors import InvalidInput
from services.demo.runfile import NAME, read_environment, write_runfile

ENVIRONMENT = {"FRESHRANK_BOOTSTRAP": "h:1", "FRESHRANK_FEATURE_REPO": "feature_repo", "FRESHRANK_PARTITIONS": "2"}


def test_the_command_finds_a_demo_by_its_folder(tmp_path: Path) -> None:
    write_runfile(tmp_path, ENVIRONMENT, "g:1", "a:2", {"ingest": "http://i:3"})
    settings = load(tmp_path)
    assert (settings.bootstrap, settings.gateway, settings.admin, settings.partitions) == ("h:1", "g:1", "a:2", 2)
    assert settings.urls() == {"ingest": ["http://i:3"]}
    assert settings.feature_repo == Path("feature_repo").absolute()
    assert read_environment(tmp_path)["FRESHRANK_BOOTSTRAP"] == "h:1"


def test_an_option_goes_before_the_folder(tmp_path: Path) -> None:
    write_runfile(tmp_path, ENVIRONMENT, "g:1", "a:2", {"ingest": "http://i:3"})
    assert load(tmp_path, gateway="other:9").gateway == "other:9"


def test_only_the_owner_may_read_it_for_it_holds_keys(tmp_path: Path) -> None:
    path = write_runfile(tmp_path, ENVIRONMENT, "g:1", "a:2", {"ingest": "http://i:3"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_replaced_whole(tmp_path: Path) -> None:
    for gateway in ("g:1", "g:2"):
        write_runfile(tmp_path, ENVIRONMENT, gateway, "a:2", {"ingest": "http://i:3"})
    assert load(tmp_path).gateway == "g:2"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"version": 2}', '{"version": 1, "gateway": ""}'])
def test_what_is_no_run_file_is_refused_and_names_the_option(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / NAME).write_text(text)
    with pytest.raises(InvalidInput, match="--folder"):
        load(tmp_path)
