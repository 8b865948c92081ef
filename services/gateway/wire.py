"""Protobuf's encoding, for the few places where bytes are written by hand."""


def varint(value: int) -> bytes:
    """A number not below 0 as a base-128 varint.

    >>> varint(300).hex()
    'ac02'
    """
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
