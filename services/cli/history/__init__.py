"""A shop's past as files: read, checked, and turned into the records that the loop would have seen."""
