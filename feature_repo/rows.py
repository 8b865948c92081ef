"""Embedding rows, packed: two slots of each arm, so that one can be filled while the other serves (design D3).

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


# Of arm `main`.
user_row_a, user_row_b = slot("user_row_a", user), slot("user_row_b", user)
item_row_a, item_row_b = slot("item_row_a", item), slot("item_row_b", item)

# For two more arms beside it; a publisher's setting `slots` says which are its own.
user_row_c, user_row_d = slot("user_row_c", user), slot("user_row_d", user)
item_row_c, item_row_d = slot("item_row_c", item), slot("item_row_d", item)
user_row_e, user_row_f = slot("user_row_e", user), slot("user_row_f", user)
item_row_e, item_row_f = slot("item_row_e", item), slot("item_row_f", item)
