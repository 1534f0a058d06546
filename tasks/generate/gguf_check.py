"""Looks a GGUF file through before anything is allocated for it: whatever it says must fit into the bytes that it has.

The format is ggml's (docs/gguf.md, version 3): magic, version, counts of tensors and of keys; keys with typed values;
names, shapes, types and offsets of tensors; their data. A file that was cut off, or made to ask for terabytes, is
refused in one sentence with the place.
"""

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from registry.records import ShrinkError

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value by its type
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
DIMENSIONS = 4
KEYS, TENSORS = 10_000, 100_000  # more of them has no model
ALIGNED = 32  # bytes of which the tensors' beginning is a multiple


class Cursor:
    """Reads numbers one after the other and never beyond the end of what is there."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def skip(self, count: int, what: str) -> int:
        """Go on by so many bytes; where they begin. ShrinkError when there are not so many."""
        begin = self.at
        if count > len(self.data) - begin:
            raise ShrinkError(
                f"'{self.path.name}' is no whole GGUF file: {what} needs {count} bytes at {begin}, but it ends at "
                f"{len(self.data)}; take a fresh copy."
            )
        self.at += count
        return begin

    def number(self, form: str, what: str) -> int:
        """One little-endian number."""
        return int(struct.unpack_from("<" + form, self.data, self.skip(struct.calcsize(form), what))[0])

    def text(self, what: str) -> str:
        """One string."""
        count = self.number("Q", f"the length of {what}")
        begin = self.skip(count, what)
        return self.data[begin : begin + count].decode(errors="replace")


class Header(NamedTuple):
    """What a checked file holds."""

    keys: dict[str, int | float | str]  # single values; arrays are looked through and left out
    tensors: dict[str, tuple[int, ...]]  # by name the shape, rows last
    types: dict[str, str]  # by name how its numbers are stored: F16, Q4_1, ...


def check(path: Path) -> Header:
    """Read a file's header and see that all its tensors lie inside of it; raises ShrinkError else."""
    if path.stat().st_size < 24:
        raise ShrinkError(f"'{path.name}' is no GGUF file: it has {path.stat().st_size} bytes; take a fresh copy.")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = Cursor(data, path)
        if data[: cursor.skip(4, "the magic") + 4] != MAGIC:
            raise ShrinkError(f"'{path.name}' is no GGUF file: it begins with {bytes(data[:4])!r}; give another file.")
        version = cursor.number("I", "the version")
        if version not in VERSIONS:
            raise ShrinkError(f"'{path.name}' is GGUF version {version} but 2 and 3 are known: convert it anew.")
        tensors, keys = (counted(cursor, what, most) for what, most in (("tensors", TENSORS), ("keys", KEYS)))
        read = dict(key(cursor) for _ in range(keys))
        found = [tensor(cursor) for _ in range(tensors)]
        types = inside(path, -(-cursor.at // ALIGNED) * ALIGNED, len(data), found)
        return Header(
            {name: one for name, one in read.items() if one is not None},
            {name: shape for name, shape, _, _ in found},
            types,
        )


def counted(cursor: Cursor, what: str, most: int) -> int:
    """A count that is no larger than any model's."""
    found = cursor.number("Q", f"the number of {what}")
    if found > most:
        raise ShrinkError(f"'{cursor.path.name}' says that it has {found} {what}, more than any model: it is broken.")
    return found


def key(cursor: Cursor) -> tuple[str, int | float | str | None]:
    """One key and its value."""
    name = cursor.text("a key")
    return name, value(cursor, cursor.number("I", f"the type of '{name}'"), name, 0)


def value(cursor: Cursor, kind: int, name: str, depth: int) -> int | float | str | None:
    """One value; an array is gone over, and None."""
    if kind in SCALARS:
        begin = cursor.skip(SCALARS[kind], f"'{name}'")
        found: int | float = struct.unpack_from("<" + FORMS[kind], cursor.data, begin)[0]
        return found
    if kind == STRING:
        return cursor.text(f"'{name}'")
    if kind == ARRAY and depth == 0:
        inner, count = cursor.number("I", f"'{name}'"), cursor.number("Q", f"'{name}'")
        if inner in SCALARS:
            cursor.skip(SCALARS[inner] * count, f"'{name}'")
            return None
        cursor.skip(8 * count, f"'{name}'")  # each string has a length at least
        cursor.at -= 8 * count
        for _ in range(count):
            value(cursor, inner, name, 1)
        return None
    raise ShrinkError(f"'{cursor.path.name}' has a value of unknown type {kind} under '{name}': convert it anew.")


def tensor(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """One tensor's name, shape, type and offset."""
    name = cursor.text("a tensor's name")
    dimensions = cursor.number("I", f"'{name}'")
    if not 1 <= dimensions <= DIMENSIONS:
        raise ShrinkError(f"'{cursor.path.name}': tensor '{name}' has {dimensions} dimensions, 1 to 4 are known.")
    shape = tuple(cursor.number("Q", f"'{name}'") for _ in range(dimensions))
    return name, shape, cursor.number("I", f"'{name}'"), cursor.number("Q", f"'{name}'")


def inside(path: Path, header: int, size: int, tensors: list[tuple[str, tuple[int, ...], int, int]]) -> dict[str, str]:
    """The tensors' types by name; ShrinkError unless all their bytes lie behind the header and before the end."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {int(kind): GGML_QUANT_SIZES[kind] for kind in GGMLQuantizationType}
    for name, shape, kind, offset in tensors:
        if kind not in known:
            raise ShrinkError(f"'{path.name}': tensor '{name}' has the unknown type {kind}: convert it anew.")
        block, stored = known[kind]
        count = 1
        for one in shape:
            count *= one
        if count % block or header + offset + count // block * stored > size:
            raise ShrinkError(
                f"'{path.name}' is no whole GGUF file: tensor '{name}' of shape {list(shape)} does not fit into its "
                f"{size} bytes; take a fresh copy."
            )
    return {name: GGMLQuantizationType(kind).name for name, _, kind, _ in tensors}
