"""Epochs only rise, and a missing one tells of lost data."""

import pytest
import redis
import redis.asyncio

from services.common.errors import InvalidInput, TemporaryError
from services.online.epochs import AsyncEpochs, Epochs, missing
from tests.online.shop import PROJECT

pytestmark = pytest.mark.pipeline


def test_an_epoch_is_raised_and_never_lowered(client: redis.Redis) -> None:
    epochs = Epochs(client, PROJECT)
    assert [epochs.raise_to("stats", number) for number in (3, 2, 10, 9)] == [3, 3, 10, 10]
    assert client.get("freshrank:shop:epoch:stats") == b"10"


def test_views_are_missing_until_raised_and_after_a_loss_of_data(client: redis.Redis) -> None:
    epochs = Epochs(client, PROJECT)
    epochs.raise_to("stats", 1)
    assert missing(epochs.read(["stats", "rows"])) == ["rows"]
    client.flushall()
    assert missing(epochs.read(["stats", "rows"])) == ["rows", "stats"]
    assert epochs.read([]) == {}


async def test_asyncio_reads_and_raises_the_same(async_client: redis.asyncio.Redis) -> None:
    epochs = AsyncEpochs(async_client, PROJECT)
    assert [await epochs.raise_to("stats", number) for number in (2, 1)] == [2, 2]
    assert await epochs.read(["stats", "rows"]) == {"stats": 2, "rows": None}
    assert await epochs.read([]) == {}


@pytest.mark.parametrize("epoch", [0, -1, 2**32])
def test_an_epoch_that_does_not_fit_is_refused(client: redis.Redis, epoch: int) -> None:
    with pytest.raises(InvalidInput, match="epoch"):
        Epochs(client, PROJECT).raise_to("stats", epoch)


def test_an_unreachable_redis_is_temporary() -> None:
    with redis.Redis(port=1, retry=None) as nobody, pytest.raises(TemporaryError):
        Epochs(nobody, PROJECT).read(["stats"])
