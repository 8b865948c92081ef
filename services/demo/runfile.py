"""run.json: where the parts of a running demo are, so that `freshrank ... --folder <its folder>` finds them.

The file holds the keys that sign tokens, so only its owner may read it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.common.errors import InvalidInput

NAME = "run.json"
_VERSION = 1
_PATHS = ("FRESHRANK_STORE", "FRESHRANK_FEATURE_REPO")
_SHARED = {
    "FRESHRANK_BOOTSTRAP": "bootstrap",
    "FRESHRANK_REDIS_URL": "redis_url",
    "FRESHRANK_STORE": "store",
    "FRESHRANK_FEATURE_REPO": "feature_repo",
    "FRESHRANK_PARTITIONS": "partitions",
    "FRESHRANK_TOKEN_KEYS": "token_keys",
    "FRESHRANK_GATEWAY_ADMIN_TOKEN": "admin_token",
}
"""Variable of the services -> field of the command's settings."""


def write_runfile(
    folder: Path, environment: Mapping[str, str], gateway: str, admin: str, urls: Mapping[str, str]
) -> Path:
    """Write it whole or not at all; returns its path.

    `environment`: what the services share; `gateway`, `admin`: host:port; `urls`: probe server of each service.
    """
    shared = {name: str(Path(value).absolute()) if name in _PATHS else value for name, value in environment.items()}
    data = {"version": _VERSION, "gateway": gateway, "admin": admin, "urls": dict(urls), "environment": shared}
    path, draft = folder / NAME, folder / f".{NAME}"
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(data, file, indent=2)
    draft.replace(path)
    return path


def read_runfile(folder: Path) -> dict[str, Any]:
    """Fields of the command's settings. Raises InvalidInput for a folder that no demo runs in."""
    data = _read(folder)
    found: dict[str, Any] = {field: data["environment"][n] for n, field in _SHARED.items() if n in data["environment"]}
    found |= {"gateway": data["gateway"], "admin": data["admin"]}
    return found | {f"{service}_url": url for service, url in data["urls"].items()}


def read_environment(folder: Path) -> dict[str, str]:
    """The variables that the demo's services share. Raises InvalidInput as `read_runfile`."""
    return {str(name): str(value) for name, value in _read(folder)["environment"].items()}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data["version"] != _VERSION or not all(data[name] for name in ("gateway", "admin", "urls", "environment")):
            raise ValueError("it is of another version")
    except OSError as error:
        raise InvalidInput("--folder", "not_found", f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput("--folder", "malformed", f"{path} is no run.json of a demo: {error}") from error
    return data
