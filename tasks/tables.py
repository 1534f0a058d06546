"""Rows read from a user's files: rated sentences, CSV and JSON lines; whatever is wrong is named by row and column."""

import csv
import difflib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from registry.records import ShrinkError, has_text, is_unicode
from tasks import multilabel, pairs
from tasks.pairs import Row

if TYPE_CHECKING:
    from tasks.data import DataConfig

ONE_VALUE = {  # by field: the remedy where a list stands in the place of a text
    "text_column": "give one text, and a second one, if there is one, under a key of its own (pair_column)",
    "pair_column": "give one text",
    "label_column": "give one label, or set multi_label where rows have several",
}

NOTHING = "(none)"  # what an empty cell is called
LONGEST = 2**31 - 1  # characters of a cell
LABELS = {str: "text", int: "whole number", float: "decimal", bool: "true or false"}  # what JSON knows


def rated(source: Path, file: str) -> Iterator[Row]:
    """Rows {id, label (the mean), text} of a file of rated sentences."""
    for number, line in enumerate(_read_text(source, file, errors="replace").split("\n"), start=1):
        parts = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(parts) < 3 or not has_text(parts[2]):
            raise ShrinkError(f"Row {number} of {file} has no text: a rated row is id, mean and text between tabs.")
        try:
            mean = float(parts[1])
        except ValueError:
            raise ShrinkError(
                f"Row {number} of {file} has the label {parts[1]!r}: the mean must be a number."
            ) from None
        yield {"id": parts[0], "label": mean, "text": parts[2].strip()}


def table(source: Path, file: str, config: "DataConfig", labelled: bool) -> Iterator[Row]:
    """Rows {id, text and, if labelled, label} of a CSV or JSON lines file, numbered from 1."""
    records = csv_records if config.format == "csv" else _jsonl_records
    columns = {"text_column": config.text_column}
    columns |= {"pair_column": config.pair_column} if config.pair_column is not None else {}
    marked = labelled and config.label_column is not None
    kept = {f"evaluate.slices[{place}]": name for place, name in enumerate(config.kept)}
    needed = columns | ({"label_column": str(config.label_column)} if marked else {})
    number, kinds = 0, dict[type, tuple[int, object]]()
    for number, record in enumerate(
        records(_read_text(source, file), file, {*needed.values(), *kept.values()}), start=1
    ):
        if number == 1:
            check_columns(record, needed | kept, file)
        read = columns if config.multi_label else needed
        cells: Row = {
            field.removesuffix("_column"): cell(record, column, field, number, file) for field, column in read.items()
        }
        if marked and config.multi_label:
            cells["label"] = multilabel.names_in(record, str(config.label_column), config.label_separator, number, file)
        if marked:
            _check_kind(kinds, record.get(str(config.label_column)), number, file)
        if kept:
            cells["columns"] = {name: plain(record.get(name), name, number, file) for name in kept.values()}
        yield pairs.joined({"id": str(number), **cells})
    if number == 0:
        raise ShrinkError(f"file is {file!r:.80} but it has no rows: give labelled rows, or check the format.")


def _check_kind(kinds: dict[type, tuple[int, object]], value: object, number: int, file: str) -> None:
    """Refuse labels written in two ways: 0 and 0.0 would be two labels, 0 and "0" one; `kinds` keeps the first."""
    for one in value if isinstance(value, list) else [value]:
        kinds.setdefault(type(one), (number, one))
    if len(kinds) > 1:
        (first, (row, other)), (second, (_, one)) = list(kinds.items())[:2]
        raise ShrinkError(
            f"Row {number} of {file} has the label {one!r:.60} ({LABELS.get(second)}) but row {row} {other!r:.60} "
            f"({LABELS.get(first)}): write all labels alike."
        )


def check_columns(record: Row, columns: dict[str, str], file: str) -> None:
    """Refuse a column that the first row lacks, with the nearest one that it has."""
    names = [str(name) for name in record if name is not None]
    for field, column in columns.items():
        if column not in record:
            mark = next((one for one in (";", "\t") if len(names) == 1 and column in names[0].split(one)), None)
            if mark is not None:
                raise ShrinkError(f"{file} has its cells between {mark!r}: write commas between them.")
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"name one of: {', '.join(map(repr, names[:12]))}."
            raise ShrinkError(f"{field} is {column!r:.80} but row 1 of {file} has no such column: {hint}")


def csv_records(text: str, file: str, wanted: set[str]) -> Iterator[Row]:
    """The rows of a CSV text by their columns; ShrinkError for what is no CSV, or has a wanted column twice."""
    number = 0
    csv.field_size_limit(LONGEST)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        twice = sorted(name for name in wanted if list(reader.fieldnames or []).count(name) > 1)
        if twice:
            raise ShrinkError(f"{file} has more than one column {twice[0]!r}: rename all but the one that is meant.")
        for number, record in enumerate(reader, start=1):
            if None in record:
                raise ShrinkError(f"Row {number} of {file} has more cells than the header: quote texts with commas.")
            yield record
    except csv.Error as error:
        raise ShrinkError(f"Row {number + 1} of {file} is no CSV ({error}): check its quotes.") from None


def _jsonl_records(text: str, file: str, wanted: set[str]) -> Iterator[Row]:
    number = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        number += 1
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ShrinkError(f"Row {number} of {file} is no JSON object: put one object on each line.")
        yield record


def cell(record: Row, column: str, field: str, number: int, file: str) -> str:
    """The text of one cell; ShrinkError where it has none."""
    value = record.get(column)
    if isinstance(value, list | dict):
        what = "a list" if isinstance(value, list) else "an object"
        raise ShrinkError(f"Row {number} of {file} has {what} under {column!r} ({field}): {ONE_VALUE[field]}.")
    absent = value is None or value != value  # NaN is what a table says for nothing
    text = "" if absent else str(value).strip()
    if not is_unicode(text):
        raise ShrinkError(f"Row {number} of {file} has half a surrogate pair in {column!r} ({field}): mend that text.")
    if not has_text(text):
        raise ShrinkError(f"Row {number} of {file} has no {column!r} ({field}): fill it in or drop the row.")
    return text


def plain(value: object, column: str, number: int, file: str) -> str:
    """The text of a cell by which rows are told apart; an empty one has a name, too."""
    if isinstance(value, list | dict):
        raise ShrinkError(f"Row {number} of {file} has no single value under {column!r} (evaluate.slices): give one.")
    text = "" if value is None or value != value else str(value).strip()
    if not is_unicode(text):
        raise ShrinkError(f"Row {number} of {file} has half a surrogate pair in {column!r}: mend that text.")
    return text if has_text(text) else NOTHING


def require_file(source: Path, file: str, field: str = "file") -> Path:
    """The path of a file of the source; ShrinkError with the nearest name when it is not there or lies outside."""
    path = source / file
    if is_file(path) and path.resolve().is_relative_to(source.resolve()):
        return path
    names = [found.relative_to(source).as_posix() for found in sorted(source.rglob("*"))[:1000] if found.is_file()]
    near = difflib.get_close_matches(file, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name one relative to the source folder."
    raise ShrinkError(f"{field} is {file!r:.80} but the source has no such file: {hint}")


def is_file(path: Path) -> bool:
    """Whether a path leads to a file; one that is too long, or not to be looked at, does not."""
    try:
        return path.is_file()
    except OSError:
        return False


def _read_text(source: Path, file: str, errors: str = "strict") -> str:
    try:
        text = require_file(source, file).read_bytes().decode("utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise ShrinkError(f"{file} is no UTF-8 at byte {error.start}: convert it to UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ShrinkError(f"{file} has a NUL character in line {line}: convert it to UTF-8, or remove that.")
    return text
