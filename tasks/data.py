"""Labelled rows from a folder of files: validated, split without leaks between near-duplicates, written as JSON lines.

Texts that are equal after lowercasing and dropping everything but letters and digits form a cluster; a cluster goes
to one split by the MD5 of its smallest id, so that the split depends neither on the order of rows nor on a seed. Pairs
that share a text form one as far as tasks/pairs.py says.
"""

import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from registry.records import STRICT, ShrinkError, has_text, is_unicode
from tasks import multilabel, pairs
from tasks.pairs import Row as Row
from tasks.pairs import Text

SPLITS = ("train", "validation", "test")
ONE_VALUE = {  # by field: the remedy where a list stands in the place of a text
    "text_column": "give one text, and a second one, if there is one, under a key of its own (pair_column)",
    "pair_column": "give one text",
    "label_column": "give one label, or set multi_label where rows have several",
}
RARE = 10  # rows of each label that a limit leaves, so that every label still reaches the train split


class DataConfig(BaseModel):
    """Which files hold the labelled and the unlabelled texts, and how they are read and split."""

    model_config = STRICT
    kind: Literal["data"] = "data"
    reads: ClassVar[dict[str, str]] = {"source": "source"}
    writes: ClassVar[tuple[str, str]] = ("data", "rows")
    file: str = Field(description="Labelled file, relative to the source folder.")
    format: Literal["rated", "csv", "jsonl"] = Field(
        default="csv", description="rated: id TAB mean rating TAB text, labelled by the rating's sign, zeros dropped."
    )
    text_column: str = Field(default="text", description="Column or key of the text (csv and jsonl).")
    pair_column: str | None = Field(
        default=None, description="Column or key of a second text that is read with the first (csv and jsonl)."
    )
    label_column: str | None = Field(
        default="label", description="Column or key of the label (csv and jsonl); null: none, for task embed."
    )
    multi_label: bool = Field(
        default=False, description="Rows have any number of labels, also none: a JSON list, or a cell of several."
    )
    label_separator: str | None = Field(
        default=None, min_length=1, description="Stands between the labels in a cell (csv with multi_label)."
    )
    transfer: tuple[str, ...] = Field(default=(), description="Files of the same format whose texts go unlabelled.")
    max_length: int = Field(default=64, ge=4, le=512, description="Longest input of the models, in tokens.")
    limit: int | None = Field(default=None, ge=1, description="Use about so many rows of every file (smoke runs).")
    split: tuple[int, int] = Field(
        default=(70, 85), description="Percent below which a cluster is train, then validation; the rest is test."
    )

    @field_validator("split")
    @classmethod
    def _rising(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 < value[0] < value[1] < 100:
            raise ValueError(f"split is {value} but must be two rising percents between 1 and 99, such as [70, 85]")
        return value


def run(inputs: dict[str, Path], config: DataConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write train, validation, test and transfer as JSON lines beside data.json; measured: rows of each.

    Of pairs also how many held-out ones share a text with a train row.
    """
    rows, labels = labelled_rows(inputs["source"], config)
    splits = split_rows(rows, config.split)
    check_splits(splits, labels)
    taken = {normalise(row["text"]) for row in rows}
    transfer = transfer_rows(inputs["source"], config, taken)
    for name, part in (*splits.items(), ("transfer", transfer)):
        write_rows(out / f"{name}.jsonl", part)
    counts = {name: len(part) for name, part in (*splits.items(), ("transfer", transfer))}
    write_facts(out, config, labels, counts)
    shared = {"rows_sharing_a_text": shared_texts(splits)} if config.pair_column else {}
    return {f"{name}_rows": count for name, count in counts.items()} | shared


def write_facts(out: Path, config: DataConfig, labels: list[str], counts: dict[str, int]) -> None:
    """data.json: what the stages must know of the rows."""
    facts: dict[str, Any] = {"labels": labels, "max_length": config.max_length, "rows": counts, "format": config.format}
    facts |= {"multi_label": config.multi_label, "pairs": config.pair_column is not None}
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False)
    (out / "data.json").write_text(text + "\n", encoding="utf-8")


def read_rows(directory: Path, name: str) -> list[Row]:
    """The rows of one split of a data artifact ([] when the file is absent); `text` of a pair is a tuple of two."""
    path = directory / f"{name}.jsonl"
    if not path.is_file():
        return []
    return [pairs.joined(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_facts(directory: Path) -> dict[str, Any]:
    """data.json of a data artifact: labels, max_length, rows, format, multi_label, pairs."""
    value: dict[str, Any] = json.loads((directory / "data.json").read_text(encoding="utf-8"))
    return value


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as JSON lines with sorted keys."""
    lines = (json.dumps(pairs.apart(row), sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def normalise(text: Text) -> str:
    """Lowercased words of letters and digits; the stripped text itself when it has none. Of a pair both, sorted."""
    if not isinstance(text, str):
        return "\t".join(sorted(map(normalise, text)))
    return re.sub(r"[\W_]+", " ", text.lower()).strip() or text.strip()


def labelled_rows(source: Path, config: DataConfig) -> tuple[list[Row], list[str]]:
    """All rows {id, text, label} and the label names in the order of their numbers; -1 and none without labels.

    The text of a pair is a tuple of two; the label of multi-label rows is a list of 0 and 1, one for each name.
    """
    check_config(config)
    if config.format == "rated":
        rated = [row for row in _rated(source, config.file) if row["label"] != 0]
        rows, names = [{**row, "label": int(row["label"] > 0)} for row in rated], ["negative", "positive"]
    elif config.label_column is None:
        rows, names = [{**row, "label": -1} for row in _table(source, config.file, config, labelled=False)], []
    else:
        raw = list(_table(source, config.file, config, labelled=True))
        if config.multi_label:
            multilabel.check_cells(raw, config.file, config.label_separator)
            rows, names = multilabel.numbered(raw, _label_order)
            return (rows if config.limit is None else thin(rows, config.limit)), names
        names = sorted({row["label"] for row in raw}, key=_label_order)
        numbers = {name: number for number, name in enumerate(names)}
        rows = [{**row, "label": numbers[row["label"]]} for row in raw]
    return (rows if config.limit is None else thin(rows, config.limit)), names


def thin(rows: list[Row], limit: int) -> list[Row]:
    """About `limit` rows spread over the file (which may be sorted), at least RARE of every label where it has them."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        for label in multilabel.held(row["label"]):
            places.setdefault(label, []).append(place)
    step = max(1, len(rows) // limit)
    kept = {place for found in places.values() for place in found[:: max(1, min(step, len(found) // RARE))]}
    return [row for place, row in enumerate(rows) if place in kept]


def split_rows(rows: list[Row], bounds: tuple[int, int]) -> dict[str, list[Row]]:
    """Rows by split; all rows of one cluster of near-duplicates, or of pairs that share a text, stand in one split."""
    names = clusters_of(rows)
    clusters: dict[str, list[str]] = {}
    for row, cluster in zip(rows, names, strict=True):
        clusters.setdefault(cluster, []).append(row["id"])
    smallest = {cluster: min(ids, key=_id_order) for cluster, ids in clusters.items()}
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row, cluster in zip(rows, names, strict=True):
        bucket = int(hashlib.md5(smallest[cluster].encode(), usedforsecurity=False).hexdigest(), 16) % 100
        parts[SPLITS[sum(bucket >= bound for bound in bounds)]].append(row)
    return parts


def clusters_of(rows: list[Row]) -> list[str]:
    """For each row the name of the cluster that a split must not tear apart."""
    if rows and not isinstance(rows[0]["text"], str):
        return pairs.linked([(normalise(row["text"][0]), normalise(row["text"][1])) for row in rows])
    return [normalise(row["text"]) for row in rows]


def shared_texts(splits: dict[str, list[Row]]) -> int:
    """How many validation and test pairs have a text that a train pair has too."""
    seen = {normalise(text) for row in splits["train"] for text in row["text"]}
    held = (*splits["validation"], *splits["test"])
    return sum(any(normalise(text) in seen for text in row["text"]) for row in held)


def check_splits(splits: dict[str, list[Row]], labels: list[str]) -> None:
    """ShrinkError when a split is empty or, where there are labels, has one class, or train lacks one that exists."""
    for name, rows in splits.items():
        if not rows:
            raise ShrinkError(f"The {name} split is empty: give more labelled rows or change split.")
        if not labels:
            continue
        if isinstance(rows[0]["label"], list):
            multilabel.check_split(name, rows, labels)
            continue
        present = {row["label"] for row in rows}
        if len(present) < 2:
            raise ShrinkError(f"The {name} split holds one class only ({labels[present.pop()]}): give rows of others.")
        if name == "train" and len(present) < len(labels):
            missing = next(label for index, label in enumerate(labels) if index not in present)
            raise ShrinkError(f"The train split has no row of label {missing!r}: give more rows of it or drop it.")


def transfer_rows(source: Path, config: DataConfig, taken: set[str]) -> list[Row]:
    """Unlabelled texts {id, text}, each once and none equal to a labelled text (held out or not)."""
    seen, rows = set(taken), []
    for file in config.transfer:
        if config.format == "rated":
            found = list(_rated(source, file))
        else:
            found = list(_table(source, file, config, labelled=False))
        for row in found[:: max(1, len(found) // config.limit) if config.limit else 1]:
            key = normalise(row["text"])
            if key not in seen:
                seen.add(key)
                rows.append({"id": f"{Path(file).stem}:{row['id']}", "text": row["text"]})
    return rows


def _rated(source: Path, file: str) -> Iterator[Row]:
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


def check_config(config: DataConfig) -> None:
    """ShrinkError for fields that contradict one another."""
    columns = [name for name in ("text_column", "pair_column", "label_column") if getattr(config, name) is not None]
    for place, name in enumerate(columns):
        for other in columns[:place]:
            if getattr(config, name) == getattr(config, other):
                what = {"label_column": "the labels", "pair_column": "the second texts"}[name]
                raise ShrinkError(f"{name} is {getattr(config, name)!r} and so is {other}: name the one of {what}.")
    if config.format == "rated":
        for name in ("pair_column", "multi_label", "label_separator"):
            if value := getattr(config, name):
                raise ShrinkError(f"{name} is {value!r} but format is 'rated', which has none: give csv or jsonl.")
    if config.multi_label and config.label_column is None:
        raise ShrinkError("multi_label is true but label_column is null: name the column of the labels.")
    if config.multi_label and config.format == "csv" and config.label_separator is None:
        raise ShrinkError("multi_label is true but label_separator is missing: say what stands between two labels.")
    if config.label_separator is not None and not (config.multi_label and config.format == "csv"):
        raise ShrinkError(
            f"label_separator is {config.label_separator!r} but is for csv with multi_label alone: remove it."
        )


def _table(source: Path, file: str, config: DataConfig, labelled: bool) -> Iterator[Row]:
    records = _csv_records if config.format == "csv" else _jsonl_records
    columns = {"text_column": config.text_column}
    columns |= {"pair_column": config.pair_column} if config.pair_column is not None else {}
    marked = labelled and config.label_column is not None
    needed = columns | ({"label_column": str(config.label_column)} if marked else {})
    number = 0
    for number, record in enumerate(records(_read_text(source, file), file, set(needed.values())), start=1):
        if number == 1:
            _check_columns(record, needed, file)
        read = columns if config.multi_label else needed
        cells: Row = {
            field.removesuffix("_column"): _cell(record, column, field, number, file) for field, column in read.items()
        }
        if marked and config.multi_label:
            cells["label"] = multilabel.names_in(record, str(config.label_column), config.label_separator, number, file)
        yield pairs.joined({"id": str(number), **cells})
    if number == 0:
        raise ShrinkError(f"file is {file!r:.80} but it has no rows: give labelled rows, or check the format.")


def _check_columns(record: Row, columns: dict[str, str], file: str) -> None:
    """Refuse a column that the first row lacks, with the nearest one that it has."""
    names = [str(name) for name in record if name is not None]
    for field, column in columns.items():
        if column not in record:
            mark = next((one for one in (";", "\t") if len(names) == 1 and column in names[0].split(one)), None)
            if mark is not None:
                raise ShrinkError(f"{file} has its cells between {mark!r}: write commas between them.")
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"name one of: {', '.join(names[:12])}."
            raise ShrinkError(f"{field} is {column!r:.80} but row 1 of {file} has no such column: {hint}")


def _csv_records(text: str, file: str, wanted: set[str]) -> Iterator[Row]:
    number = 0
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


def _cell(record: Row, column: str, field: str, number: int, file: str) -> str:
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


def _id_order(value: str) -> tuple[int, int, str]:
    return (0, int(value), value) if value.isdecimal() else (1, 0, value)


def _label_order(value: str) -> tuple[int, int, str]:
    return _id_order(value)
