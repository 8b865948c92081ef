"""The Feast store: what the SDK writes is ordered too, and can be taken out again."""

import asyncio
import random
import threading

import pytest
import redis
from feast.protos.feast.types.Value_pb2 import Value

from services.online.epochs import Epochs
from services.online.keys import entity_key
from tests.online.shop import PROJECT, Shop, at, open_shop

pytestmark = pytest.mark.pipeline


def test_the_sdk_reads_what_the_sdk_wrote(shop: Shop) -> None:
    shop.push([("a", {"float32": Value(float_val=1.5), "string": Value(string_val="x")}, at(0))])
    assert shop.get(["a"], ["float32", "string"])["string"] == ["x"]
