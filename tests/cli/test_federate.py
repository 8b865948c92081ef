"""`freshrank federate study`: archives compared, and what is refused before anything is learned."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import build
from tests.trainer.federated.shops import archive

SMALL = {"ROW_DIM": "4", "MAX_ROWS": "2000", "RETRIEVAL_DIM": "8", "ADMISSION": "1", "BATCH_IMPRESSIONS": "5"}


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, what was written, and what was said."""
    variables = {f"FRESHRANK_TRAINER_{name}": value for name, value in SMALL.items()}
    done = CliRunner().invoke(build(), ["federate", *words], env=variables)
    return done.exit_code, done.stdout, done.stderr


def test_a_study_compares_alone_central_and_federated(tmp_path: Path) -> None:
    shops = [f"{name}={archive(tmp_path / name, seed, 40)}" for seed, name in enumerate(("one", "two"), 1)]
    out = tmp_path / "out"
    code, said, _ = run(
        "study", *shops, "--rounds", "2", "--out", str(out), "--way", "prox: strategy=proximal(1)", "--json"
    )
    assert code == 0, said
    found = json.loads(said)
    assert list(found) == ["alone", "central", "fedavg", "prox"]
    assert set(found["prox"]["shops"]) == {"one", "two"}
    assert json.loads((out / "study.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "nothing"], "NAME=ARCHIVE"),
        (["join", "one", "/nowhere"], "examples"),
        (["serve", "--rounds", "1", "--host", "10.0.0.1"], "tls"),
        (["serve", "--rounds", "1", "--secure", "--least", "2"], "least"),
        (["serve", "--rounds", "1", "--tls-key", "key.pem"], "--tls-ca"),
    ],
    ids=str,
)
def test_bad_input_names_what_is_wrong(words: list[str], said: str) -> None:
    code, _, error = run(*words)
    assert code == 2
    assert said in error
