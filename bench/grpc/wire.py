"""Enough of protobuf for the benchmarks' clients: fields that hold text, bytes or other messages."""


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """A length-delimited field; nothing for an empty text."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data if data or isinstance(value, bytes) else b""


def fields(data):
    """Numbers and values of a message whose fields are all length-delimited."""
    at = 0

    def read():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = read()
        if tag & 7 != 2:
            raise ValueError("field %d is not length-delimited" % (tag >> 3))
        size = read()
        yield tag >> 3, data[at : at + size]
        at += size
