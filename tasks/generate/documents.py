"""Documents from files: whole texts for language models, split by document, and prose of a second domain beside them.

Written as JSON lines {id, text}: train, validation, test, and `second` where there is a second domain, which nothing
learns from.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from registry.records import STRICT, ShrinkError, Task, has_text
from tasks import splits, tables
from tasks.data import write_rows
from tasks.pairs import Row

PROSE_WORDS = 20  # a paragraph of fewer is a heading, a list, an address
DOCUMENT = 2000  # characters after which the next paragraph of a running text begins another document


class DocumentsConfig(BaseModel):
    """Which files hold the documents, and how they are read and split."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    writes: ClassVar[tuple[str, str]] = ("data", "rows")
    kind: Literal["data"] = Field("data", description="The stage's kind.")
    task: Literal["generate"] = Field("generate", description="What the recipe's models are for.")
    file: str = Field(description="File of the documents, relative to the source folder; it may end in .gz.")
    format: Literal["jsonl", "prose", "articles"] = Field(
        "jsonl",
        description="jsonl: an object a document; prose: running text, paragraphs gathered; articles: id TAB rating "
        "TAB sentence, where ids ARTICLE_NUMBER say which sentences make one document.",
    )
    text_column: str = Field("text", description="Key of the text (jsonl).")
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


def read(source: Path, file: str, form: str, field: str, column: str = "text") -> list[Row]:
    """The documents of a file; ShrinkError naming the field, or the line that is wrong."""
    text = unpacked(tables.require_file(source, file, field))
    match form:
        case "articles":
            rows = articles(text, file)
        case "prose":
            rows = prose(text)
        case _:
            rows = objects(text, file, column)
    if not rows:
        raise ShrinkError(f"{field} is {file!r:.80} but it has no document: check the file and the format.")
    return rows


def unpacked(path: Path) -> str:
    """A file's text, unzipped where its name ends in .gz; what is no UTF-8 is replaced."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ShrinkError(f"{path.name} cannot be unzipped ({error}): take a fresh copy.") from None
    return raw.decode("utf-8-sig", errors="replace").replace("\0", "")


def articles(text: str, file: str) -> list[Row]:
    """Sentences gathered by the part of their id before the last underscore, in the order of the file."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(parts) < 3 or "_" not in parts[0] or not has_text(parts[2]):
            raise ShrinkError(f"Row {number} of {file} is no sentence of an article: ARTICLE_NUMBER, rating, text.")
        found.setdefault(parts[0].rpartition("_")[0], []).append(parts[2].strip())
    return [{"id": name, "text": " ".join(sentences)} for name, sentences in found.items()]


def prose(text: str) -> list[Row]:
    """Paragraphs of running text, their lines joined, gathered in order into documents of about DOCUMENT characters.

    Left out is what is no prose: paragraphs of fewer than PROSE_WORDS words, or that do not end as a sentence does.
    """
    gathered: list[list[str]] = [[]]
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(block.split())
        if len(paragraph.split()) < PROSE_WORDS or not re.search(r"[.!?:][\"'”’)]*$", paragraph):
            continue
        gathered[-1].append(paragraph)
        if sum(map(len, gathered[-1])) >= DOCUMENT:
            gathered.append([])
    return [
        {"id": str(number), "text": "\n\n".join(paragraphs)}
        for number, paragraphs in enumerate(gathered, 1)
        if paragraphs
    ]


def objects(text: str, file: str, column: str) -> list[Row]:
    """One document from each JSON object of a file of lines."""
    rows = []
    for number, line in enumerate((line for line in text.split("\n") if line.strip()), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ShrinkError(f"Row {number} of {file} is no JSON object: put one object on each line.")
        said = value.get(column)
        if not isinstance(said, str) or not has_text(said):
            raise ShrinkError(f"Row {number} of {file} has no {column!r} (text_column): fill it in or drop the row.")
        rows.append({"id": str(number), "text": said.strip()})
    return rows
