"""A service that cannot go on says why in one sentence, and by its exit code whether to try again."""

import os
import subprocess
import sys

import pytest

from services.common import exits
from services.common.errors import CorruptState, FreshrankError, InvalidInput, NotFound, TemporaryError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("shelves", "out_of_range", "must be above 0"), 2),
        (NotFound("no release r1"), 2),
        (TemporaryError("Kafka did not answer"), 3),
    ],
)
def test_what_a_reader_can_mend_is_one_sentence(
    error: FreshrankError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exits.one_sentence():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{error}\n"


@pytest.mark.parametrize("error", [CorruptState("a file"), KeyError("a bug")])
def test_other_errors_keep_their_stack(error: Exception) -> None:
    with pytest.raises(type(error)), exits.one_sentence():
        raise error


@pytest.mark.parametrize("service", ["features", "gateway", "ingest", "joiner", "publisher", "trainer"])
def test_a_service_with_a_bad_setting_names_it_and_ends_with_code_2(service: str) -> None:
    name = f"FRESHRANK_{service.upper()}_HTTP_PORT"
    command = [sys.executable, "-m", f"services.{service}"]
    ended = subprocess.run(command, env=os.environ | {name: "eighty"}, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith(f"{name}: ")
