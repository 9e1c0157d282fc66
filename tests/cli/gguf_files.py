"""Reading and writing GGUF headers, apart from hearth: what `hearth show` says is compared with this."""

import math
import struct

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", 11: "q", 12: "d"}
# Name, values and bytes of a block; the page of the format at ggml.ai says the same.
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144),
         14: ("Q6_K", 256, 210)}


class Reader:
    """metadata: key -> value; tensors: (name, type name, shape, bytes) in file order."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        assert self.data[:4] == b"GGUF"
        self.at = 4
        self.version = self.number("I")
        n_tensors, n_keys = self.number("Q"), self.number("Q")
        self.metadata = {}
        for _ in range(n_keys):
            key = self.string().decode()
            self.metadata[key] = self.value(self.number("I"))
        self.tensors = []
        for _ in range(n_tensors):
            name = self.string().decode()
            shape = [self.number("Q") for _ in range(self.number("I"))]
            type_name, values, block_bytes = TYPES[self.number("I")]
            self.number("Q")
            self.tensors.append((name, type_name, shape, math.prod(shape) // values * block_bytes))

    def number(self, kind):
        value, = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize("<" + kind)
        return value

    def string(self):
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length:self.at]

    def value(self, kind):
        if kind == STRING:
            return self.string().decode(errors="replace")
        if kind == ARRAY:
            element, count = self.number("I"), self.number("Q")
            return [self.value(element) for _ in range(count)]
        return self.number(FORMATS[kind])


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, what):
    if kind == STRING:
        return string(what)
    if kind == ARRAY:
        element, values = what
        return struct.pack("<IQ", element, len(values)) + b"".join(value(element, v) for v in values)
    return struct.pack("<" + FORMATS[kind], what)


def write(path, keys, tensors):
    """keys: (key, kind, value); tensors: (name, shape), all of F32 zeros."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, kind, what in keys:
        head += string(key) + struct.pack("<I", kind) + value(kind, what)
    offset = 0
    for name, shape in tensors:
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", 0, offset)
        offset += (math.prod(shape) * 4 + 31) // 32 * 32
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + bytes(offset))
