"""Labelled rows from a folder of files: validated (tasks/tables.py), split (tasks/splits.py), written as JSON lines."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from registry.records import STRICT, ShrinkError
from tasks import multilabel, pairs, tables
from tasks.pairs import Row as Row
from tasks.splits import check_splits, id_order, normalise, shared_texts, split_rows, thin


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
    kept: tuple[str, ...] = Field(
        default=(), description="Columns that held-out rows keep; filled in from evaluate.slices, not to be given."
    )
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
    check_splits(splits, labels, config.limit)
    taken = {normalise(row["text"]) for row in rows}
    transfer = transfer_rows(inputs["source"], config, taken)
    splits["train"] = [{key: value for key, value in row.items() if key != "columns"} for row in splits["train"]]
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


def labelled_rows(source: Path, config: DataConfig) -> tuple[list[Row], list[str]]:
    """All rows {id, text, label} and the label names in the order of their numbers; -1 and none without labels.

    The text of a pair is a tuple of two; the label of multi-label rows is a list of 0 and 1, one for each name.
    """
    check_config(config)
    if config.format == "rated":
        rated = [row for row in tables.rated(source, config.file) if row["label"] != 0]
        rows, names = [{**row, "label": int(row["label"] > 0)} for row in rated], ["negative", "positive"]
    elif config.label_column is None:
        rows, names = [{**row, "label": -1} for row in tables.table(source, config.file, config, labelled=False)], []
    else:
        raw = list(tables.table(source, config.file, config, labelled=True))
        if config.multi_label:
            multilabel.check_cells(raw, config.file, config.label_separator)
            rows, names = multilabel.numbered(raw, id_order)
            return (rows if config.limit is None else thin(rows, config.limit)), names
        names = sorted({row["label"] for row in raw}, key=id_order)
        numbers = {name: number for number, name in enumerate(names)}
        rows = [{**row, "label": numbers[row["label"]]} for row in raw]
    return (rows if config.limit is None else thin(rows, config.limit)), names


def transfer_rows(source: Path, config: DataConfig, taken: set[str]) -> list[Row]:
    """Unlabelled texts {id, text}, each once and none equal to a labelled text (held out or not)."""
    seen, rows = set(taken), []
    for file in config.transfer:
        if config.format == "rated":
            found = list(tables.rated(source, file))
        else:
            found = list(tables.table(source, file, config.model_copy(update={"kept": ()}), labelled=False))
        for row in found[:: max(1, len(found) // config.limit) if config.limit else 1]:
            key = normalise(row["text"])
            if key not in seen:
                seen.add(key)
                rows.append({"id": f"{Path(file).stem}:{row['id']}", "text": row["text"]})
    return rows


def check_config(config: DataConfig) -> None:
    """ShrinkError for fields that contradict one another."""
    columns = [name for name in ("text_column", "pair_column", "label_column") if getattr(config, name) is not None]
    for place, name in enumerate(columns):
        for other in columns[:place]:
            if getattr(config, name) == getattr(config, other):
                what = {"label_column": "the labels", "pair_column": "the second texts"}[name]
                raise ShrinkError(f"{name} is {getattr(config, name)!r} and so is {other}: name the one of {what}.")
    if config.format == "rated":
        for name in ("pair_column", "multi_label", "label_separator", "kept"):
            if value := getattr(config, name):
                name, value = ("evaluate.slices", list(config.kept)) if name == "kept" else (name, value)
                raise ShrinkError(f"{name} is {value!r} but format is 'rated', which has none: give csv or jsonl.")
    if config.multi_label and config.label_column is None:
        raise ShrinkError("multi_label is true but label_column is null: name the column of the labels.")
    if config.multi_label and config.format == "csv" and config.label_separator is None:
        raise ShrinkError("multi_label is true but label_separator is missing: say what stands between two labels.")
    if config.label_separator is not None and not (config.multi_label and config.format == "csv"):
        raise ShrinkError(
            f"label_separator is {config.label_separator!r} but is for csv with multi_label alone: remove it."
        )
