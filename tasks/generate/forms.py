"""What a text means by its format: sentences of articles, running text, lines, JSON objects, cells of a table."""

import json
import re
from typing import Literal

from registry.records import ShrinkError, has_text, is_unicode
from tasks import tables
from tasks.pairs import Row

Form = Literal["jsonl", "csv", "prose", "lines", "articles", "files"]
PROSE_WORDS = 20  # a paragraph of fewer is a heading, a list, an address
DOCUMENT = 2000  # characters after which the next paragraph of a running text begins another document
APART = 4  # lines a paragraph from which on a text of long lines has a document in each


def guessed(text: str) -> Form:
    """The format of a text file: sentences of articles, a document a line, or running text of paragraphs."""
    lines = [line for line in text.splitlines() if has_text(line)]
    if lines and all(re.match(r"[^\t]*_[^\t]*\t[^\t]*\t", line) for line in lines):
        return "articles"
    paragraphs = sum(bool(block.strip()) for block in re.split(r"\n\s*\n", text))
    long = sum(len(line.split()) for line in lines) >= PROSE_WORDS * len(lines)
    return "lines" if lines and long and APART * paragraphs <= len(lines) else "prose"


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


def lines(text: str) -> list[Row]:
    """A document from each line that has text."""
    kept = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if has_text(line)]
    return [{"id": str(number), "text": line} for number, line in kept]


def cells(text: str, file: str, column: str) -> list[Row]:
    """One document from each row of a CSV file."""
    rows = []
    for number, record in enumerate(tables.csv_records(text, file, {column}), start=1):
        if number == 1:
            tables.check_columns(record, {"text_column": column}, file)
        rows.append({"id": str(number), "text": tables.cell(record, column, "text_column", number, file)})
    return rows


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
        if not is_unicode(said):
            raise ShrinkError(f"Row {number} of {file} has half a surrogate pair in {column!r}: mend that text.")
        rows.append({"id": str(number), "text": said.strip()})
    return rows
