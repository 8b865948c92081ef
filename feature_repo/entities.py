"""Whose values are kept: shoppers, items, categories, visits and queries. All ids are text."""

from feast import Entity, ValueType

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="a shopper (pseudonym)")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="what is ranked")
category = Entity(
    name="category", join_keys=["category"], value_type=ValueType.STRING, description="main category of an item"
)
session = Entity(name="session", join_keys=["session_id"], value_type=ValueType.STRING, description="one visit")
query = Entity(
    name="query", join_keys=["query"], value_type=ValueType.STRING, description="what is searched for, in one spelling"
)
