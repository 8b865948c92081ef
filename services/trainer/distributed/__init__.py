"""One arm learned by several processes: dense weights on each of them, rows on the one that owns their key."""
