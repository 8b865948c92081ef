"""What shoppers search for: an item near their taste, in words as people type them, and other words when that fails.

Pure and seeded, with a generator of its own: a world with a search box behaves as one without it in everything else.
"""

from dataclasses import dataclass

import numpy as np

from services.demo.world import Shopper, World

ATTEMPTS = 2
TYPO, PLURAL, CAPITALS = 0.12, 0.2, 0.1
"""Shares of queries with a wrong letter, of those with a word in another form, and of those in capitals."""

FITS, NEAR, FAR = 1.0, 0.4, 0.1
"""What an item that fits what is looked for is clicked like, one of the same category, and any other."""


@dataclass(frozen=True)
class Intent:
    """What somebody looks for: an item like this one."""

    item_id: str
    category: str
    words: tuple[str, ...]
    """Of its title, without the category."""
    brand: str


class SearchBox:
    """The searches of a world's shoppers."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._rng = world, np.random.default_rng([seed, 1])

    def wanted(self, share: float) -> bool:
        """Whether somebody who asks now searches, rather than looks at what is recommended."""
        return bool(self._rng.random() < share)

    def intend(self, shopper: Shopper) -> Intent:
        """What a shopper looks for: the item nearest to the taste, of some that come to mind."""
        items = list(self._world.items)
        chosen = [items[k] for k in self._rng.integers(0, len(items), 30)]
        return self.intent_of(max(chosen, key=lambda item_id: self._world.match(shopper, item_id)))

    def intent_of(self, item_id: str) -> Intent:
        """The wish for an item like this one."""
        item = self._world.items[item_id]
        category = item.categories[0]
        return Intent(item_id, category, tuple(word for word in item.title.split() if word != category), item.brand)

    def query(self, intent: Intent, attempt: int) -> str:
        """Words for it: what it is and how; then, where that did not help, its brand."""
        how = str(self._rng.choice(intent.words)) if intent.words else ""
        words = [how, intent.category] if attempt == 0 else [intent.brand, intent.category]
        if attempt == 0 and self._rng.random() < 0.3:
            words = words[1:]
        text = " ".join(filter(None, words))
        if self._rng.random() < PLURAL:
            text = text[:-1] if text.endswith("s") else f"{text}s"
        if self._rng.random() < TYPO:
            text = self._mistyped(text)
        return text.upper() if self._rng.random() < CAPITALS else text

    def fit(self, intent: Intent, item_id: str) -> float:
        """How much of its usual chance of a click an item has for somebody who looks for this."""
        item = self._world.items.get(item_id)
        if item is None:
            return FAR
        if item.categories[0] != intent.category:
            return FAR
        return FITS if set(intent.words) & set(item.title.split()) else NEAR

    def _mistyped(self, text: str) -> str:
        at = int(self._rng.integers(1, max(2, len(text) - 1)))
        ways = (
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :],
        )
        return ways[int(self._rng.integers(0, len(ways)))] if len(text) > 4 else text
