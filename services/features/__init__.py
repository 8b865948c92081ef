"""Events into feature values: sliding windows by shopper, item, category and visit, written to Feast."""
