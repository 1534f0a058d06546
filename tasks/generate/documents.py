"""Documents from files: whole texts for language models, split by document, and prose of a second domain beside them.

Written as JSON lines {id, text}: train, validation, test, and `second` where there is a second domain, which nothing
learns from. What a file's text means is told by its format (tasks/generate/forms.py).
"""

import codecs
import gzip
import json
import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from registry.records import STRICT, ShrinkError, Task, has_text, is_unicode
from tasks import splits, tables
from tasks.data import write_rows
from tasks.generate import forms
from tasks.generate.forms import Form
from tasks.pairs import Row

TEXTS = (".txt", ".text", ".md", ".markdown")  # endings of text files, before a .gz that may follow
BROKEN = ("\N{REPLACEMENT CHARACTER}", "\0")  # what bytes are read as that are no UTF-8, or are UTF-16
LOST = 0.005  # part of a text that may be such
LACK = "check the file and the format."
LACKING: dict[Form, str] = {  # what would make one
    "files": f"put text files there ({', '.join(TEXTS)}, also with .gz).",
    "prose": f"a paragraph of {forms.PROSE_WORDS} words that ends as a sentence does is needed; check the format.",
}


class DocumentsConfig(BaseModel):
    """Which files hold the documents, and how they are read and split."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    writes: ClassVar[tuple[str, str]] = ("data", "rows")
    kind: Literal["data"] = Field("data", description="The stage's kind.")
    task: Literal["generate"] = Field("generate", description="What the recipe's models are for.")
    file: str = Field(
        description="File of the documents, relative to the source folder; it may end in .gz. Of format files a folder."
    )
    format: Form = Field(
        "jsonl",
        description="jsonl: an object a document; csv: a row a document; prose: running text, paragraphs gathered; "
        "lines: a document a line; articles: id TAB rating TAB sentence, where ids ARTICLE_NUMBER say which sentences "
        "make one document; files: a folder of text files, each a document.",
    )
    text_column: str = Field("text", description="Key or column of the text (jsonl, csv).")
    second_file: str | None = Field(
        None, description="Running text of another domain, relative to second_source; judged on, never learnt from."
    )
    max_length: int = Field(256, ge=16, le=8192, description="Tokens of a window that is read at once.")
    limit: int | None = Field(None, ge=1, description="Use about so many documents of each file (smoke runs).")
    split: tuple[int, int] = Field(
        (70, 85), description="Percent below which a document is train, then validation; the rest is test."
    )

    @property
    def reads(self) -> dict[str, str]:
        """The documents' source, and that of the second domain."""
        return {"source": "source"} | ({"second": "source"} if self.second_file else {})

    @field_validator("split")
    @classmethod
    def _rising(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 < value[0] < value[1] < 100:
            raise ValueError(f"split is {value} but must be two rising percents between 1 and 99, such as [70, 85]")
        return value


def run(inputs: dict[str, Path], config: DocumentsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the splits and data.json; measured: documents of each split and the bytes of their text."""
    parts = split_documents(inputs["source"], config)
    if config.second_file:
        parts["second"] = thinned(read(inputs["second"], config.second_file, "prose", "second_file"), config.limit)
    for name, rows in parts.items():
        write_rows(out / f"{name}.jsonl", rows)
    counts = {name: len(rows) for name, rows in parts.items()}
    facts = {"task": "generate", "rows": counts, "max_length": config.max_length, "format": config.format}
    (out / "data.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sizes = {f"{name}_bytes": sum(len(row["text"].encode()) for row in rows) for name, rows in parts.items()}
    return {f"{name}_rows": count for name, count in counts.items()} | sizes


def split_documents(source: Path, config: DocumentsConfig) -> dict[str, list[Row]]:
    """{split: documents {id, text}}; near-duplicates stay together. ShrinkError when a split is empty."""
    rows = thinned(read(source, config.file, config.format, "file", config.text_column), config.limit)
    parts = splits.split_rows(rows, config.split)
    splits.check_splits(parts, [])
    return parts


def thinned(rows: list[Row], limit: int | None) -> list[Row]:
    """About `limit` documents, spread over the file."""
    return rows[:: max(1, len(rows) // limit)] if limit else rows


def read(source: Path, file: str, form: Form, field: str, column: str = "text") -> list[Row]:
    """The documents of a file, or folder; ShrinkError naming the field, or the line that is wrong."""
    if form == "files":
        rows = files(source, file, field)
    else:
        rows = told(unpacked(tables.require_file(source, file, field)), file, form, column)
    if not rows:
        raise ShrinkError(f"{field} is {file!r:.80} but it has no document: {LACKING.get(form, LACK)}")
    return rows


def told(text: str, file: str, form: Form, column: str) -> list[Row]:
    """The documents of a text by its format."""
    match form:
        case "articles":
            return forms.articles(text, file)
        case "prose":
            return forms.prose(text)
        case "lines":
            return forms.lines(text)
        case "csv":
            return forms.cells(text, file, column)
        case _:
            return forms.objects(text, file, column)


def files(source: Path, folder: str, field: str) -> list[Row]:
    """A document from each text file below a folder of the source, by its name there; none of hidden or empty ones."""
    root = source / folder
    if not root.is_dir() or not root.resolve().is_relative_to(source.resolve()):
        raise ShrinkError(f"{field} is {folder!r:.80} but the source has no such folder: name one, or '.' for all.")
    rows = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if not is_unicode(name.as_posix()):
            raise ShrinkError(f"{field} has a file whose name is no UTF-8, {name.as_posix()!r:.80}: rename it.")
        if is_text(path) and not hidden and path.is_file() and path.resolve().is_relative_to(source.resolve()):
            text = unpacked(path).strip()
            rows += [{"id": name.as_posix(), "text": text}] if has_text(text) else []
    return rows


def is_text(path: Path) -> bool:
    """Whether a file's name is that of a text."""
    return path.name.lower().removesuffix(".gz").endswith(TEXTS)


def unpacked(path: Path) -> str:
    """A file's text, unzipped where its name ends in .gz; a few bytes that are no UTF-8 are replaced.

    Raises ShrinkError for more of them, which are text in another encoding or no text at all.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ShrinkError(f"{path.name} cannot be read ({error.strerror}): make it readable.") from None
    try:
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ShrinkError(f"{path.name} cannot be unzipped ({error}): take a fresh copy.") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ShrinkError(f"{path.name} is UTF-16 but UTF-8 is read: convert it (iconv -f UTF-16 -t UTF-8).")
    text = raw.decode("utf-8-sig", errors="replace")
    if (lost := sum(map(text.count, BROKEN))) > LOST * len(text):
        raise ShrinkError(
            f"{path.name} is no UTF-8: {lost / len(text):.1%} of its characters cannot be read; convert it to UTF-8."
        )
    return text.replace("\0", "")
