"""Programs of a cluster, built with Go once into the cache folder: no root, no containers, no binaries from elsewhere.

    python -m tests.cluster.build           what is absent or has changed
    python -m tests.cluster.build helm      that alone

Versions are in `tools/**/go.mod` (programs) and `tools/crds.txt` (custom resource definitions); each `go.sum` and the
sums in `crds.txt` make sure that what is built is what was pinned. Programs are linked in `<cache>/go/bin`. Standard
library only.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.demo.cache import Cache, Progress, default_folder

TOOLS = Path(__file__).parent / "tools"
PROGRAMS = {
    "helm": "helm.sh/helm/v3/cmd/helm",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube": "./kube",
    "promtool": "github.com/prometheus/prometheus/cmd/promtool",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score",
}
"""Package of each; `kube` is both servers of a control plane."""
APART = {"kube-score"}
"""Not of one module with the others, from which they take their packages: it does not compile with theirs."""
NAMES = {"kube": ("kube-apiserver", "kube-controller-manager")}
"""Further names, where a program looks at the one it is called by."""
CRDS = "crds"


@dataclass(frozen=True)
class Definitions:
    """The files of one line of `crds.txt`."""

    module: str
    content: str
    """The sum of the module as `go.sum` has it."""
    files: tuple[str, ...]


def folder() -> Path:
    """Where the programs are kept."""
    return default_folder(os.environ) / "go"


def program(name: str) -> Path | None:
    """The program of the pinned version, or None when it has not been built."""
    built = folder() / f"{name}-{pins(name)}" / name
    return built if built.exists() else None


def crds() -> Path | None:
    """The folder of custom resource definitions of the pinned versions, or None."""
    there = folder() / f"{CRDS}-{_digest(TOOLS / 'crds.txt')}"
    return there if there.exists() else None


def module(name: str) -> Path:
    """The folder of the Go module that pins the program."""
    return TOOLS / name if name in APART else TOOLS


def pins(name: str) -> str:
    """The version of all that a program is built from."""
    return _digest(module(name) / "go.mod", module(name) / "go.sum", *sorted(module(name).glob("*/*.go")))


def definitions() -> Iterator[Definitions]:
    """What `crds.txt` asks for."""
    for line in (TOOLS / "crds.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            module, content, *files = line.split()
            yield Definitions(module, content, tuple(files))


def provide(name: str) -> None:
    """Build what is absent. Raises CalledProcessError when Go does, after it has said why."""
    cache = Cache(folder(), Progress())
    if name == CRDS:
        cache.provide(CRDS, _digest(TOOLS / "crds.txt"), _fetch)
        return
    made = cache.provide(name, pins(name), lambda part: _build(name, part / name))
    for link in (name, *NAMES.get(name, ())):
        _link(folder() / "bin" / link, made / name)


def _build(name: str, target: Path) -> None:
    flags = f"-s -w {_version_flags()}" if name == "kube" else "-s -w"
    options = ("-trimpath", f"-ldflags={flags}", "-o", str(target))
    _go("build", *options, PROGRAMS[name], mode="readonly", cwd=module(name))


def _version_flags() -> str:
    """What Kubernetes' own build does: without it the server says v0.0.0, and charts ask for a least version."""
    found = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (TOOLS / "go.mod").read_text())
    assert found is not None
    named = zip(("gitVersion", "gitMajor", "gitMinor"), found.groups(), strict=True)
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in named)


def _fetch(part: Path) -> None:
    for wanted in definitions():
        found = json.loads(_go("mod", "download", "-json", wanted.module, mode="mod", cwd=part))
        if found["Sum"] != wanted.content:
            raise SystemExit(f"{wanted.module} is not the one pinned in crds.txt: {found['Sum']}")
        for file in wanted.files:
            # Modules are read-only in Go's cache, and a copy keeps the mode.
            shutil.copyfile(Path(found["Dir"], file), part / Path(file).name)


def _go(*words: str, mode: str, cwd: Path) -> str:
    # The last flag of a name counts: whatever else GOFLAGS asks for stays.
    flags = f"{os.environ.get('GOFLAGS', '')} -mod={mode} -buildvcs=false".strip()
    environment = os.environ | {"GOFLAGS": flags, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return subprocess.run(
        ["go", *words], cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    part = link.with_name(f".{link.name}-{os.getpid()}")
    part.symlink_to(os.path.relpath(target, link.parent))
    os.replace(part, link)


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def main(names: list[str]) -> None:
    """Build the named ones, or all."""
    known = [*PROGRAMS, CRDS]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no program named {unknown[0]}; there are {', '.join(known)}")
    if shutil.which("go") is None:
        sys.exit("the programs of a cluster are built with Go, and there is no Go here")
    try:
        for name in names or known:
            provide(name)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: `{' '.join(error.cmd)}` failed with status {error.returncode}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
