"""Content digests of files, directories and JSON values; what counts as text."""

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

BLANK = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # Unicode's categories of what cannot be seen


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_of(directory: Path) -> dict[str, dict[str, int | str]]:
    """{relative posix path: {size, sha256}} of every file below a directory, in name order."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }


def digest_directory(directory: Path) -> str:
    """The content digest of a directory: SHA-256 over its manifest; empty directories do not count."""
    return sha256_json(manifest_of(directory))


def directory_bytes(directory: Path) -> int:
    """Sum of the sizes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def has_text(text: str) -> bool:
    """Whether anything of a text is visible: spaces, control and zero-width characters alone are no text."""
    return any(unicodedata.category(one) not in BLANK for one in text)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: lone halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
