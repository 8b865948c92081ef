"""Embedding rows, packed: two slots of each, so that one can be filled while the other serves (design D3).

The publisher writes them in the order (epoch, sequence) of the trainer's deltas.
"""

from datetime import timedelta

from entities import item, user
from feast import Entity, FeatureView, Field
from feast.types import Array, Float32
from sources import pushed


def slot(name: str, entity: Entity) -> FeatureView:
    """One slot of one kind of row."""
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        source=pushed(name),
        schema=[Field(name="row", dtype=Array(Float32))],
    )


user_row_a, user_row_b = slot("user_row_a", user), slot("user_row_b", user)
item_row_a, item_row_b = slot("item_row_a", item), slot("item_row_b", item)
