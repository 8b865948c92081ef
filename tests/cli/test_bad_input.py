"""Every wrong option ends with 2 and one sentence that names it; nothing is asked of any part before."""

from pathlib import Path

import pytest

from tests.cli.fakes import Admin, Ranking, run, serving
from tests.cli.past import csv_file, row

NOWHERE = "127.0.0.1:9"
KEYS = {"FRESHRANK_TOKEN_KEYS": "1:" + "ab" * 16, "FRESHRANK_BOOTSTRAP": NOWHERE}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a catalogue and clicks, and with files that are wrong."""
    csv_file(tmp_path / "items.csv", [{"item": "item-1", "price": "5"}])
    csv_file(tmp_path / "clicks.csv", [row()])
    csv_file(tmp_path / "late.csv", [row(time="2031-01-01")])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        pytest.param("freeze", "parts", id="nothing to freeze"),
        pytest.param("freeze everything", "everything", id="unknown part"),
        pytest.param("unfreeze rows --admin", "--admin", id="option without its value"),
        pytest.param("releases show", "RELEASE", id="no release named"),
        pytest.param("releases diff A", "'B'", id="one release to compare"),
        pytest.param("releases list --tls-ca {tmp}/none.pem", "--tls-ca", id="authority that is not there"),
        pytest.param("releases list --tls-cert {tmp}/items.csv", "--tls-cert", id="certificate without key"),
        pytest.param("releases list --folder {tmp}", "--folder", id="folder without a demo"),
        pytest.param("forget", "user", id="nobody to forget"),
        pytest.param("arms start", "ARM", id="a trial of nobody"),
        pytest.param("arms start new --reward click", "--reward", id="a reward without a weight"),
        pytest.param("retrain ../main --store {tmp}", "ARM", id="an arm that is a path"),
        pytest.param("retrain main --store {tmp}", "arm", id="an arm retrained from itself"),
        pytest.param("retrain fresh --store {tmp}", "main", id="a retrain of nothing"),
        pytest.param("forget ada --yes --before yesterday", "--before", id="time that is none"),
        pytest.param("explain", "TOKEN", id="no token"),
        pytest.param("explain good --top 0", "--top", id="nothing to show"),
        pytest.param("status --ingest-url ftp://there", "--ingest-url", id="address of another kind"),
        pytest.param("status", "--folder", id="no address"),
        pytest.param("features plan --repo {tmp}", "--repo", id="no feature repository"),
        pytest.param("replay {tmp}", "data", id="no known log"),
        pytest.param("replay {tmp} --lockstep --speed 3", "--speed", id="two clocks"),
        pytest.param("replay {tmp} --limit -1", "--limit", id="negative limit"),
        pytest.param("import --interactions {tmp}/clicks.csv", "--catalogue", id="no catalogue"),
        pytest.param("import --catalogue {tmp}/items.csv", "--interactions", id="no interactions"),
        pytest.param("{import} --catalogue {tmp}/none.csv", "--catalogue", id="catalogue that is not there"),
        pytest.param("{import} --interactions {tmp}/late.csv", "--interactions", id="event in the future"),
        pytest.param("{import} --map user", "--map", id="mapping that is none"),
        pytest.param("{import} --map shopper=user", "--map", id="column of nobody"),
        pytest.param("{import} --map-catalogue item=sku", "--catalogue", id="mapped column not there"),
        pytest.param("{import} --kinds detail", "--kinds", id="word without a kind"),
        pytest.param("{import} --kinds detail=wink", "--kinds", id="word for no kind"),
        pytest.param("{import} --kind wink", "--kind", id="no such kind"),
        pytest.param("{import} --negatives 0", "--negatives", id="nothing beside the item"),
        pytest.param("{import}", "FRESHRANK_TOKEN_KEYS", id="no keys to sign with"),
        pytest.param("wish", "wish", id="no such command"),
    ],
)
def test_bad_input_ends_with_two_and_names_the_option(arguments: str, names: str, shop: Path) -> None:
    whole = arguments.replace("{import}", "import --catalogue {tmp}/items.csv --interactions {tmp}/clicks.csv")
    ended = run(*whole.replace("{tmp}", str(shop)).split())
    assert ended.code == 2
    assert names.lower() in ended.err.lower()
    assert "Traceback" not in ended.err


def test_a_setting_that_nobody_knows_is_refused_by_name() -> None:
    ended = run("releases", "list", env={"FRESHRANK_CLI_ADMN": NOWHERE})
    assert ended.code == 2
    assert "FRESHRANK_CLI_ADMN" in ended.err


def test_files_are_checked_without_any_system(shop: Path) -> None:
    files = ("--catalogue", str(shop / "items.csv"), "--interactions", str(shop / "clicks.csv"))
    ended = run("import", *files, "--check", "--json")
    assert (ended.code, ended.json) == (0, {"items": 1, "interactions": 1})


@pytest.mark.pipeline  # waits for a broker that is not there
def test_a_kafka_that_is_away_ends_an_import_with_three_before_anything_is_written(shop: Path) -> None:
    ranking = Ranking()
    files = ("--catalogue", str(shop / "items.csv"), "--interactions", str(shop / "clicks.csv"))
    with serving(Admin(), ranking) as address:
        ended = run("import", *files, "--gateway", address, "--admin", address, env=KEYS)
    assert (ended.code, ranking.items) == (3, [])
