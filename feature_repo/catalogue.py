"""What the shop says about items and shoppers: written when it changes, not aggregated."""

from datetime import timedelta

from entities import item, user
from feast import FeatureView, Field
from feast.types import Array, Float32, Int64, String
from sources import pushed

catalogue = FeatureView(
    name="catalogue",
    entities=[item],
    ttl=timedelta(0),
    source=pushed("catalogue"),
    schema=[
        Field(name="title", dtype=String),
        Field(name="categories", dtype=Array(String), description="the first is the main one"),
        Field(name="brand", dtype=String),
        Field(name="price", dtype=Float32),
        Field(name="stock", dtype=Int64, description="pieces; null = not counted"),
        Field(name="published_us", dtype=Int64),
    ],
)

profile = FeatureView(
    name="profile",
    entities=[user],
    ttl=timedelta(0),
    source=pushed("profile"),
    schema=[
        Field(name="region", dtype=String),
        Field(name="joined_us", dtype=Int64),
        Field(name="interests", dtype=Array(String)),
    ],
)
