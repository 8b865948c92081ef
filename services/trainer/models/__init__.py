"""Models that learn one interaction at a time, beside the neural ranker."""
