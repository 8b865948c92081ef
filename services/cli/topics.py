"""Create the topics that are absent: `python -m services.cli.topics`, the first job of a cluster."""

import argparse
import sys

from pydantic_settings import SettingsConfigDict

from services.cli.kafka import TopicSpec, create_topics
from services.common.errors import FreshrankError
from services.common.exits import exit_code
from services.common.settings import SHARED_PREFIX, ServiceSettings, load_settings
from services.common.topics import TOPICS


class TopicsSettings(ServiceSettings):
    """Only the shared ones: where Kafka is, and how many partitions."""

    model_config = SettingsConfigDict(env_prefix=SHARED_PREFIX, frozen=True, extra="forbid")


def main(arguments: list[str] | None = None) -> None:
    """Create them, or say in one line why not."""
    parser = argparse.ArgumentParser(prog="python -m services.cli.topics", description=__doc__)
    parser.add_argument(
        "--replication-factor", type=int, default=-1, help="copies of each partition; -1 = the brokers' own default"
    )
    replication_factor = parser.parse_args(arguments).replication_factor
    try:
        settings = load_settings(TopicsSettings, {})
        specs = [TopicSpec.of(topic, settings.partitions) for topic in TOPICS]
        create_topics(settings.kafka, specs, replication_factor)
    except FreshrankError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(exit_code(error)) from None
    sys.stdout.write(f"{len(specs)} topics, {settings.partitions} partitions each keyed one\n")


if __name__ == "__main__":
    main()
