"""The catalogue's texts from Kafka."""

from services.common.broker import Address
from services.common.kafka.readers import Tail
from services.common.topics import ITEM_UPDATES
from services.trainer.text.catalogue import Texts

_MOST = 5_000
"""Records taken between two looks at the examples."""


class TextsReader:
    """Keeps the texts of items up to date; made, it knows all that was written before."""

    def __init__(self, bootstrap: Address, texts: Texts) -> None:
        """Reads the topic to its end. Raises TemporaryError when Kafka or the topic is not there."""
        self._texts, self._tail = texts, Tail(bootstrap, ITEM_UPDATES.name)
        for _, _, _, key, value in self._tail.until(self._tail.ends()):
            texts.apply(key, value)

    def follow(self) -> None:
        """Take what has come, without waiting. Raises TemporaryError."""
        for _, _, _, key, value in self._tail.poll(_MOST, 0):
            self._texts.apply(key, value)

    def close(self) -> None:
        """Leave the broker."""
        self._tail.close()
