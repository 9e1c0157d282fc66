"""Ember as a model that reasons: its own weights, another chat template and one other token.

The template opens a block of reasoning unless enable_thinking is false. Ember's comma is the end of that block, so that
"I am Ember, a tiny model" is a thought and an answer.
"""

import pathlib
import struct

TEMPLATE = (
    "{%for m in messages%}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{%endfor%}<|im_start|>assistant\n"
    "{%if enable_thinking is not defined or enable_thinking%}<think>\n{%endif%}{#</think>#}")
TOKEN, CLOSE = b",", b"</think>"


def string(data):
    return struct.pack("<Q", len(data)) + data


def end_of_key(data, key):
    return data.index(string(key.encode())) + 8 + len(key) + 4  # behind the type


def write(source, path):
    data = pathlib.Path(source).read_bytes()
    # Tokens: an array (type, count) of strings.
    start = at = end_of_key(data, "tokenizer.ggml.tokens")
    count, = struct.unpack_from("<Q", data, at + 4)
    at += 12
    for _ in range(count):
        length, = struct.unpack_from("<Q", data, at)
        if data[at + 8:at + 8 + length] == TOKEN:
            break
        at += 8 + length
    assert at > start and data[at + 8:].startswith(TOKEN)
    data = data[:at] + string(CLOSE) + data[at + 8 + len(TOKEN):]
    # What the token is longer the template is shorter: the rest of the file stays where it was.
    at = end_of_key(data, "tokenizer.chat_template")
    length, = struct.unpack_from("<Q", data, at)
    room = length - (len(CLOSE) - len(TOKEN))
    template = TEMPLATE.encode()
    assert len(template) <= room - 4, f"{len(template)} bytes, there are {room}"
    padded = template + b"{#" + b" " * (room - len(template) - 4) + b"#}"
    path.write_bytes(data[:at] + string(padded) + data[at + 8 + length:])
