"""Mutate files; the changes are determined by a seed."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from train_head.runs.card import CARD_NAME

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 96


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Apply one to four changes to a file, half of them to its header."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if changed:
            rng.choice(_CHANGES)(rng, changed)
    return bytes(changed)


def mutate_png(rng: random.Random, data: bytes) -> bytes:
    """Mutate chunks of a PNG file, with valid checksums, so that decoders read them."""
    parts, position = [data[:8]], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        if rng.random() < 0.4:
            content = mutate(rng, content)
        parts.append(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
        position += 12 + length
    return b"".join(parts)


def mutate_member(rng: random.Random, data: bytes, name: str) -> bytes:
    """Mutate a member of a zip file, with valid checksums; half of the mutated JSON members are still JSON."""
    is_json = name.endswith(".json") and rng.random() < 0.5
    return change_member(data, name, lambda content: (mutate_json if is_json else mutate)(rng, content))


def remove_digest(data: bytes) -> bytes:
    """Remove the digest from an exported model, as in earlier versions, so that its parts are checked one by one."""
    return change_member(data, CARD_NAME, lambda card: json.dumps({**json.loads(card), "digest": ""}).encode())


def change_member(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Replace the content of a member of a zip file; the checksums stay valid."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, change(content) if member == name else content)
    return buffer.getvalue()


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Replace a random value in a JSON file."""
    value = json.loads(data)
    locations: list[tuple[dict[str, object] | list[object], str | int]] = []
    pending = [value]
    while pending:
        found = pending.pop()
        for key, inner in found.items() if isinstance(found, dict) else enumerate(found):
            locations.append((found, key))
            if isinstance(inner, dict | list):
                pending.append(inner)
    container, key = rng.choice(locations)
    values: tuple[Any, ...] = (
        None,
        -1,
        0,
        10**9,
        10**400,
        1.5,
        "",
        "lambda x: x",
        "../../etc/passwd",
        [],
        {},
        [None] * 3,
        True,
    )
    container[key] = rng.choice(values)  # type: ignore[index]
    return json.dumps(value).encode()


def _choose_position(rng: random.Random, data: bytearray) -> int:
    return rng.randrange(min(len(data), HEADER_BYTES) if rng.random() < 0.5 else len(data))


def _flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[_choose_position(rng, data)] ^= 1 << rng.randrange(8)


def _write_extreme(rng: random.Random, data: bytearray) -> None:
    position, size = _choose_position(rng, data), rng.choice((1, 2, 4, 8))
    value = rng.choice(EXTREMES) & (1 << 8 * size) - 1
    data[position : position + size] = value.to_bytes(size, rng.choice(("big", "little")))


def _write_noise(rng: random.Random, data: bytearray) -> None:
    position, size = _choose_position(rng, data), rng.choice((2, 16, 256))
    data[position : position + size] = rng.randbytes(size)


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[_choose_position(rng, data) :]


def _delete(rng: random.Random, data: bytearray) -> None:
    position = _choose_position(rng, data)
    del data[position : position + rng.choice((1, 4, 64))]


def _repeat(rng: random.Random, data: bytearray) -> None:
    position, size = _choose_position(rng, data), rng.choice((1, 16, 1024))
    data[position:position] = data[position : position + size] * rng.choice((1, 2, 50))


def _exchange(rng: random.Random, data: bytearray) -> None:
    first, second = sorted((_choose_position(rng, data), _choose_position(rng, data)))
    size = min(16, second - first)
    one, other = data[first : first + size], data[second : second + size]
    data[first : first + len(one)], data[second : second + len(other)] = other, one


_CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip_bits,
    _flip_bits,
    _write_extreme,
    _write_extreme,
    _write_noise,
    _truncate,
    _delete,
    _repeat,
    _exchange,
)
