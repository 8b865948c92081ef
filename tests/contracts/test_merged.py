"""What two people changed at once was put together by a person: no mark of a conflict is left."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARKS = ("<" * 7 + " ", ">" * 7 + " ")


def test_no_tracked_file_holds_the_marks_of_a_conflict() -> None:
    words = ["git", "grep", "-lE", f"^({'|'.join(MARKS)})"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode > 1:  # no checkout: an archive of the sources
        return
    assert found.stdout.split() == []
