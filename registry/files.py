"""What may lie in an admitted version, looked at from outside: kinds of files, names, and what each of them holds.

Nothing is opened by a library here. A served model is a handful of files of known names, so whatever else lies beside
them is refused without asking what it is for; registry/contents.py, at the download, knows what any version may have.
"""

import json
import stat
from pathlib import Path

from registry.contents import ARCHIVES, PICKLES
from registry.records import Check

SERVED = {"config.json", "model.onnx", "model.gguf", "tokenizer.json"}  # all that a runtime of ours reads
TEXTS = {"", ".md", ".txt"}  # NOTICE, LICENSE.txt, README.md
EVIDENCE = {".json", ".html", *TEXTS}
PARSED = 64_000_000  # bytes of a JSON file or a text at most; the largest tokenizers have a quarter of it
BEGINS = {".onnx": b"\x08", ".gguf": b"GGUF"}  # ONNX: the tag of ir_version, the first field that is written


def named(folder: Path) -> Check:
    """Only files that a served model and its evidence are made of, under plain names; no folders, no links."""
    for part in ("model", "evidence"):
        for path in sorted((folder / part).iterdir()):
            if (wrong := odd(part, path)) is not None:
                return _check("files", False, f"{part}/{path.name!r:.80} {wrong}")
    return _check("files", True, "only files that a served model and its evidence are made of")


def odd(part: str, path: Path) -> str | None:
    """What is wrong with an entry by its name and kind alone; None when nothing is."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return "is no ordinary file"
    if path.name.startswith(".") or not path.name.isprintable():
        return "has a name that is hidden or unsafe"
    fits = path.name in SERVED or path.suffix in TEXTS if part == "model" else path.suffix in EVIDENCE
    return None if fits else f"is none of the files that {part}/ is made of"


def harmless(folder: Path) -> Check:
    """No pickle (of protocols without a mark, too), archive or compressed file, whatever its name says."""
    for part in ("model", "evidence"):
        for path in sorted((folder / part).iterdir()):
            with path.open("rb") as stream:
                begin = stream.read(1 << 16)
            if begin.startswith((*PICKLES, *ARCHIVES)) or unmarked(begin):
                return _check("pickle", False, f"{part}/{path.name!r:.80} begins as a pickle or an archive does")
    return _check("pickle", True, "no pickle and nothing packed")


def unmarked(begin: bytes) -> bool:
    """Whether bytes are opcodes of a pickle of protocol 0 or 1 up to its end; they are read and none is run."""
    import pickletools

    if begin[:1] not in (b"c", b"(", b"]", b"}", b")"):
        return False
    try:
        return any(opcode.name == "STOP" and (at or 0) > 1 for opcode, _, at in pickletools.genops(begin))
    except Exception:  # it raises whatever its readers meet
        return False


def whole(folder: Path) -> Check:
    """Each file is what its name says: JSON that parses, text that is text, models that begin as theirs do."""
    for part in ("model", "evidence"):
        for path in sorted((folder / part).iterdir()):
            if (wrong := amiss(path)) is not None:
                return _check("contents", False, f"{part}/{path.name!r:.80} {wrong}")
    return _check("contents", True, "each file is what its name says")


def amiss(path: Path) -> str | None:
    """What is wrong with a file's content; None when nothing is."""
    if path.suffix in BEGINS:
        with path.open("rb") as stream:
            return None if stream.read(4).startswith(BEGINS[path.suffix]) else f"does not begin as {path.suffix} does"
    if path.stat().st_size > PARSED:
        return f"has {path.stat().st_size} bytes, more than any of its kind"
    try:
        text = path.read_bytes().decode()
        if path.suffix == ".json":
            json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no {'JSON' if path.suffix == '.json' else 'text in UTF-8'} ({error!s:.80})"
    return "is no text" if "\0" in text else None


def _check(name: str, passed: bool, why: str) -> Check:
    return Check(name=name, value=None, limit=None, passed=passed, why=why)
