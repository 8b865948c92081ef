"""Store the feature definitions in the registry: `python -m services.cli.apply_features`, a job of a cluster."""

import sys

from pydantic_settings import SettingsConfigDict

from services.common.errors import FreshrankError
from services.common.settings import SHARED_PREFIX, ServiceSettings, load_settings
from services.features import commands


class ApplySettings(ServiceSettings):
    """Only the shared ones: where the repository and the store are."""

    model_config = SettingsConfigDict(env_prefix=SHARED_PREFIX, frozen=True, extra="forbid")


def main() -> None:
    """Apply, one line per change; or say in one line why not and end with status 1."""
    try:
        changes = commands.apply(load_settings(ApplySettings, {}).feature_repo)
    except FreshrankError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("".join(f"{change.action} {change.path} {change.detail}\n" for change in changes))
    sys.stdout.write(f"{len(changes)} changes applied\n")


if __name__ == "__main__":
    main()
