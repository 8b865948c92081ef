"""python -m services.demo.oracle: check everything and exit 0 only when it all holds."""

import argparse
import json
import sys
import warnings
from pathlib import Path

import typeguard

from services.demo.oracle.events import check_events, check_item_rows
from services.demo.oracle.examples import check_examples
from services.demo.oracle.features import check_features
from services.demo.oracle.heads import DEFAULT, heads_of
from services.demo.oracle.log import in_order, rows
from services.demo.oracle.verdicts import Verdicts


def main() -> None:
    """Check everything and exit 0 only when it all holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "redis", "registry", "acks", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--project", default="freshrank")
    parser.add_argument("--heads", default=DEFAULT, help="as FRESHRANK_JOINER_HEADS has them")
    parser.add_argument("--kafka", type=json.loads, default={}, help="more settings of Kafka's client, JSON")
    options = parser.parse_args()
    brokers = {"bootstrap.servers": options.bootstrap, **options.kafka}
    # What Feast would load for nothing that is read here: torch, and checks of types woven into each of its functions.
    sys.modules["torch"] = None  # type: ignore[assignment]
    typeguard.typechecked = lambda target=None, **_: target or (lambda inner: inner)  # type: ignore[assignment]
    from feast import FeatureStore, RepoConfig

    warnings.simplefilter("ignore")  # after Feast, which sets filters of its own

    verdicts = Verdicts()
    users = in_order(rows(brokers, "interactions"))
    items = in_order(rows(brokers, "item_interactions"), "src_partition")
    check_events(brokers, Path(options.acks), users, verdicts)
    check_examples(brokers, users, heads_of(options.heads), verdicts)
    check_item_rows(users, items, verdicts)
    config = RepoConfig(
        project=options.project, provider="local", registry={"registry_type": "sql", "path": options.registry},
        online_store={"type": "redis", "connection_string": options.redis}, entity_key_serialization_version=3,
    )  # fmt: skip
    check_features(FeatureStore(config=config), users, items, verdicts)
    Path(options.out).write_text(json.dumps({"held": verdicts.held, "checks": verdicts.checks}, indent=1))
    sys.exit(0 if verdicts.held else 1)


if __name__ == "__main__":
    main()
