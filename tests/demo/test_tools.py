"""What is downloaded is what was pinned."""

import hashlib
import re
import sys
import zipfile
from pathlib import Path

import pytest

from services.common.errors import CorruptState, PermanentError
from services.demo.ports import Ports
from services.demo.tools import KAFKA, REQUIREMENTS, _in_wheel, _install, _libpython, _Pins


def wheel(folder: Path) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "SIZE = 1\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def pins(folder: Path, digest: str) -> Path:
    path = folder / "tiny.txt"
    path.write_text(f"--no-index\n--find-links {folder}\ntiny==1.0 --hash=sha256:{digest}\n")
    return path


def test_a_pinned_wheel_is_installed(tmp_path: Path) -> None:
    digest = hashlib.sha256(wheel(tmp_path).read_bytes()).hexdigest()
    _install(tmp_path / "target", pins(tmp_path, digest), tmp_path)
    assert (tmp_path / "target" / "tiny.py").exists()


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path)
    with pytest.raises(CorruptState, match=r"tiny\.txt"):
        _install(tmp_path / "target", pins(tmp_path, "0" * 64), tmp_path)
    assert not (tmp_path / "target" / "tiny.py").exists()


@pytest.mark.parametrize("name", ["kafka.txt", "triton.txt", "triton-backend.txt"])
def test_every_pin_has_a_hash_and_none_an_address(name: str) -> None:
    text = (REQUIREMENTS / name).read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert "//" not in text


def test_the_jars_are_those_of_the_chosen_kafka() -> None:
    jars = {coordinate for coordinate, _ in _Pins(REQUIREMENTS).jars()}
    assert set(KAFKA) <= jars
    assert {coordinate.split(":")[1] for coordinate in jars} >= {"kafka-server", "kafka-clients", "slf4j-api"}


def test_the_version_of_a_part_follows_its_pins(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = _Pins(tmp_path).version("a.txt")
    (tmp_path / "a.txt").write_text("two")
    assert _Pins(tmp_path).version("a.txt") != before


def test_a_missing_package_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(PermanentError, match="no_such_package is not installed.*extra `demo`"):
        _in_wheel("no_such_package", "bin/x")


def test_the_python_library_is_that_of_this_python() -> None:
    assert (_libpython() / f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0").exists()


def test_two_stacks_never_get_the_same_port() -> None:
    one, other = Ports(), Ports()
    taken = [ports.take() for ports in (one, other) for _ in range(50)]
    one.close()
    other.close()
    assert len(set(taken)) == 100
    assert all(20_000 <= port < 32_000 for port in taken)
