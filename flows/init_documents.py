"""The documents that `shrink init --task generate` is given: how they are read, and whether they are enough."""

import os
from pathlib import Path
from typing import Any

from flows import init_decoder_fit as fit
from flows import units
from registry.records import ShrinkError
from tasks.generate import documents, forms
from tasks.generate.documents import DocumentsConfig
from tasks.pairs import Row

TABLES: dict[str, forms.Form] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LEAST = 2048  # tokens of training text: on fewer a rounding is fitted to nothing
ENOUGH = fit.BLOCKS * fit.WINDOW
LEAST_TESTS, FEW_TESTS = 3, 30  # documents to judge on: of fewer there is no interval, of few a wide one


def config_of(data: Path, column: str, folder: Path) -> tuple[DocumentsConfig, Path]:
    """How the documents are read, by the file's ending and look, and the folder that they lie in."""
    name = Path(data.name.lower().removesuffix(".gz"))
    if data.is_dir():
        if folder.resolve().is_relative_to(data.resolve()):
            raise ShrinkError(f"data is '{data}', in which the recipe would lie; name a folder of documents alone.")
        if not any(map(documents.is_text, data.rglob("*"))):
            endings = ", ".join(documents.TEXTS)
            raise ShrinkError(
                f"data is '{data}', a folder without a text file ({endings}, also with .gz); name another."
            )
        config, source = {"file": ".", "format": "files"}, data
    elif not data.is_file():
        raise ShrinkError(f"data is '{data}' but there is no such file or folder; name one with text.")
    elif name.suffix in TABLES:
        config, source = {"file": data.name, "format": TABLES[name.suffix], "text_column": column}, data.parent
    elif documents.is_text(data):
        config, source = {"file": data.name, "format": forms.guessed(documents.unpacked(data))}, data.parent
    else:
        endings = ", ".join((*documents.TEXTS, *TABLES))
        raise ShrinkError(f"data is '{data}' but must be a folder or end in {endings} or these and .gz; convert it.")
    if column != "text" and "text_column" not in config:
        raise ShrinkError(f"text_column is '{column}' but '{data}' is no CSV or JSONL file; leave it out.")
    return DocumentsConfig.model_validate(config), source


def check_second(second: Path, data: Path) -> None:
    """Refuse a second domain that is no text, or that the first one holds."""
    if not second.is_file() or not documents.is_text(second):
        raise ShrinkError(
            f"second_data is '{second}' but must be a text file of another domain ({', '.join(documents.TEXTS)}, also "
            "with .gz); name one, or leave it out."
        )
    if os.path.samefile(second, data) or second.resolve().is_relative_to(data.resolve()):
        raise ShrinkError(
            f"second_data is '{second}', which the data '{data}' holds, so that it would be learnt from; name another "
            "file, or leave it out."
        )
    documents.read(second.parent, second.name, "prose", "second_data")


def check_amount(parts: dict[str, list[Row]], tokens: int) -> None:
    """Refuse too little text to learn from, or to judge on."""
    if tokens < LEAST:
        raise ShrinkError(
            f"the documents have {units.size(bytes_of(parts))} of text, about {tokens} tokens to learn from, but "
            f"{LEAST} are needed at least: give about {-(-LEAST // max(1, tokens))} times as much."
        )
    if (tests := len(parts["test"])) < LEAST_TESTS or not parts["validation"]:
        raise ShrinkError(
            f"of {sum(map(len, parts.values()))} documents {len(parts['validation'])} would be validation and {tests} "
            f"test, but 1 and {LEAST_TESTS} are needed at least, of tests better {FEW_TESTS}: give more documents, of "
            "running text more of it."
        )


def bytes_of(parts: dict[str, list[Row]]) -> int:
    """Bytes of all documents' text."""
    return sum(len(row["text"].encode()) for rows in parts.values() for row in rows)


def amounts(parts: dict[str, list[Row]], tokens: int) -> dict[str, Any]:
    """The template's numbers of documents."""
    counts = {split: len(rows) for split, rows in parts.items()}
    size = units.size(bytes_of(parts))
    return {**counts, "documents": sum(counts.values()), "size": size, "tokens": f"{tokens:,}"}
