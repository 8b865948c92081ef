"""Reads a feature repository's Python files as Feast does, and applies them: only for people at the command line.

Services never do this: they read what was applied (`registry.py`).
"""

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from services.common.errors import FreshrankError, InvalidInput, NotFound, PermanentError
from services.common.plans import Plan
from services.online.inventory import Inventory, inventory
from services.online.light import light
from services.online.registry import build_plan, repo_config, with_defaults

with light():
    from feast.repo_contents import RepoContents
    from feast.repo_operations import apply_total, parse_repo


def read_repository(feature_repo: Path) -> Plan:
    """The plan that `apply_repository` would put into the registry.

    Raises InvalidInput naming file, view and feature; NotFound when the folder is no feature repository.
    """
    return read_all(feature_repo)[0]


def read_all(feature_repo: Path) -> tuple[Plan, Inventory]:
    """The same, and everything in the repository by name."""
    with _inside(feature_repo):
        contents = _parsed(Path.cwd())
    views = [*contents.stream_feature_views, *contents.feature_views]
    return _plan(feature_repo, contents), inventory(contents.entities, views)


def _plan(feature_repo: Path, contents: RepoContents) -> Plan:
    project = str(repo_config(feature_repo).project)
    keys = {entity.name: entity.join_key for entity in contents.entities}
    services = {service.name: service for service in contents.feature_services}
    return build_plan(project, keys, contents.stream_feature_views, contents.feature_views, services)


def apply_repository(feature_repo: Path) -> str:
    """Store the repository in the registry (`feast apply`); returns what Feast printed.

    Raises InvalidInput before anything is changed, PermanentError when Feast refuses.
    """
    read_repository(feature_repo)
    printed = io.StringIO()
    with _inside(feature_repo), contextlib.redirect_stdout(printed):
        try:
            apply_total(repo_config(Path.cwd()), Path.cwd(), skip_source_validation=True)
        except SystemExit as error:
            raise PermanentError(f"Feast refused the repository: {printed.getvalue()}") from error
    return printed.getvalue()


def _parsed(folder: Path) -> RepoContents:
    try:
        return parse_repo(folder)
    except FreshrankError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else folder.name
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{Path(error.filename).name}:{error.lineno}"
        raise InvalidInput(where, "not_python", f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the folder as Feast expects: its files are top-level modules. Everything is put back afterwards."""
    if not (folder / "feature_store.yaml").is_file():
        raise NotFound(f"{folder} has no feature_store.yaml")
    before, modules, variables = Path.cwd(), set(sys.modules), dict(os.environ)
    os.environ["FRESHRANK_STORE"] = str(Path(os.environ.get("FRESHRANK_STORE") or "store").absolute())
    os.environ.update(with_defaults(os.environ))
    folder = _real(folder)
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        _restore_variables(variables)
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]


def _real(folder: Path) -> Path:
    """Where the files are. Mounted from a ConfigMap they are links into a hidden folder, and Feast, which names modules
    by where a file really is, would import the hidden ones."""
    data = folder / "..data"
    return (data if data.is_dir() else folder).resolve()


def _restore_variables(variables: dict[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)
