"""What a registered version may consist of: names, kinds and sizes of files, looked at before and after a download.

The registry is not trusted: who may write to MLflow or to its S3 may list any name and any size.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
ALIAS = re.compile(r"[A-Za-z0-9._-]{1,255}")  # or a version's number
RESERVED = re.compile(r"latest|v[0-9]+", re.IGNORECASE)  # MLflow takes neither for an alias
SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+@=-]{0,200}")  # of a path; no dot in front
KINDS = {
    *(
        "safetensors",
        "onnx",
        "data",
        "gguf",
        "xml",
        "bin",
        "pte",
        "model",
    ),  # weights and graphs
    *("json", "jsonl", "yaml", "txt", "jinja", "md", "html", "sig"),
}
BARE = {"LICENSE", "LICENCE", "NOTICE", "README", "MLmodel"}  # names without an ending
FILES, DEPTH = 2000, 6
LARGEST = 200_000_000_000  # bytes of a version: 100 billion weights of 16 bits
RESERVE = 200_000_000  # bytes that a download leaves free
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"\x93NUMPY", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


class Foreign(RuntimeError):
    """A version that holds what none may hold; the text goes on from "version 1 of name"."""


class Listed(BaseModel):
    """One file as a registry lists it."""

    model_config = STRICT
    path: str
    size: int


def checked_name(name: str) -> str:
    """A model's name that may become part of a path; raises ShrinkError for any other."""
    if NAME.fullmatch(name) is None or ".." in name:
        raise ShrinkError(f"model is {name!r} but a name has letters, digits, '.', '_' and '-' only; name another.")
    return name


def split_name(model: str) -> tuple[str, str]:
    """MODEL@ALIAS or MODEL@VERSION in its two parts; without one, champion is meant. Raises ShrinkError."""
    name, at, wanted = model.partition("@")
    if at and ALIAS.fullmatch(wanted) is None:
        raise ShrinkError(
            f"model is {model!r} but behind '@' stands an alias (letters, digits, '.', '_', '-') or a number; "
            f"write {name or 'NAME'}@champion or {name or 'NAME'}@3."
        )
    if RESERVED.fullmatch(wanted):
        raise ShrinkError(
            f"model is {model!r} but '{wanted}' is never an alias: name a version by its number, {name}@3."
        )
    return checked_name(name), wanted or "champion"


def check(files: Iterable[Listed], parts: Iterable[str], declared: int | None, place: Path) -> int:
    """The bytes of a listed version, once nothing speaks against downloading it to `place`.

    `parts` are the folders it may consist of, `declared` the bytes it is registered with. Raises Foreign, and
    ShrinkError where the disk is too small for it.
    """
    known, total, count = tuple(parts), 0, 0
    for count, file in enumerate(files, start=1):
        if count > FILES:
            raise Foreign(f"lists more than {FILES} files")
        check_path(file.path, known)
        if file.size < 0:
            raise Foreign(f"lists {file.path!r} with {file.size} bytes")
        total += file.size
    if total > LARGEST or (declared is not None and total != declared):
        told = f"it is registered with {declared}" if declared is not None else f"none may have over {LARGEST}"
        raise Foreign(f"lists {total} bytes, and {told}")
    if (free := shutil.disk_usage(place).free) < total + RESERVE:
        raise ShrinkError(f"SHRINK_HOME has {free / 1e6:.0f} MB free but a version of {total / 1e6:.0f} MB is to be "
                          f"fetched to '{place}'; make room there.")  # fmt: skip
    return total


def check_path(path: str, parts: tuple[str, ...]) -> None:
    """Raise Foreign for a path that leaves its folder, hides, or is of no kind that a version has."""
    segments = check_segments(path)
    if segments[0] not in parts or len(segments) < 2:
        raise Foreign(f"has {path!r}, which is in none of {', '.join(parts)}")
    name = PurePosixPath(path).name
    if name not in BARE and PurePosixPath(name).suffix.removeprefix(".").lower() not in KINDS:
        raise Foreign(f"has {path!r}, a kind of file that no version has")


def check_segments(path: str) -> list[str]:
    """The segments of a path that stays where it is put; raises Foreign."""
    segments = path.split("/")
    if len(segments) > DEPTH or any(SEGMENT.fullmatch(one) is None or ".." in one for one in segments):
        raise Foreign(f"has the name {path!r}, which none may have")
    return segments


def check_folder(folder: Path, parts: tuple[str, ...]) -> None:
    """Raise Foreign where a folder holds links, other kinds of files than a version has, pickles or archives."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Foreign(f"holds {name!r}, which is neither file nor folder")
        if path.is_file():
            check_path(name, parts)
            if (what := _smuggled(path)) is not None:
                raise Foreign(f"holds {name!r}, which is {what}")


def _smuggled(path: Path) -> str | None:
    """What a file is in truth, where its bytes say so; raw weights may begin like a pickle, but not end so too."""
    with path.open("rb") as stream:
        head = stream.read(9)
        size = stream.seek(0, 2)
        stream.seek(max(size - 1, 0))
        last = stream.read(1)
    kind = path.suffix.lower()
    if kind == ".safetensors":  # the length of its header may look like anything
        return None if head[8:] == b"{" else "no safetensors file"
    if kind == ".gguf":
        return None if head.startswith(b"GGUF") else "no GGUF file"
    if head.startswith(ARCHIVES):
        return "an archive"
    return "a pickle" if head.startswith(PICKLES) and last == b"." else None
