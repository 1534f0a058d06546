"""`shrink init`: a recipe for a user's own model and labelled file, checked before it is written.

The shapes follow the shipped `sentiment` recipe: half of the layers (a third of more than six), half of the
feed-forward width, the first and the last layer always kept.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from flows import fit, init_classify, init_embed, sources
from flows.preflight import preflight
from flows.recipe import NAME, NAMING, anchored, parse
from flows.recipe_file import shipped
from registry.records import ShrinkError, Task
from tasks import architectures, data, layout, multilabel, splits
from tasks.data import DataConfig
from tasks.pairs import Text

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FEW_ROWS = 5000  # train rows below which the stages take twice the epochs
FREQUENT = 0.7  # part of the rows from which on one label counts as too frequent for accuracy
FEW_TESTS = 300  # test rows below which the gate's intervals will be wide
SAMPLE = 2000  # texts whose length in tokens is looked at
LONG = 0.99  # part of the texts that shall fit whole into the models' input


def write(
    name: str,
    data_file: Path,
    model: Path,
    columns: tuple[str, str | None] = ("text", "label"),
    licences: tuple[str, str] = ("unknown", "unknown"),
    folder: Path = Path(),
    task: Task = "classify",
    kinds: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write folder/NAME.yaml for a CSV or JSONL file and a model folder; returns what was found and written.

    For task embed the column of labels may be None. `kinds` has the fields of the data that say how many texts and
    labels a row has: pair_column, multi_label, label_separator. Raises ShrinkError, with nothing written, when the
    file, the model or the name will not do.
    """
    target = folder / f"{name}.yaml"
    check_target(name, target)
    if model.suffix == sources.MODEL and not model.is_dir():
        raise ShrinkError(f"model is '{model}', a language model's file, but task is {task}: give --task generate.")
    if not model.is_dir():
        raise ShrinkError(f"model is '{model}' but there is no such folder; name one with config.json.")
    found = layout.read(model)
    config = data_config(data_file, columns, kinds or {})
    if task == "embed":
        fit.check_embed(config)
    rows, labels = data.labelled_rows(data_file.parent, config)
    parts = splits.split_rows(rows, config.split)
    several = None if config.multi_label or task == "embed" else several_in(labels, config)
    with hinting(several):
        splits.check_splits(parts, labels)
    length = max_length([row["text"] for row in rows], found)
    text = (init_embed if task == "embed" else init_classify).TEMPLATE.format(
        file=target.name,
        teacher=quoted(f"dir:{path_from(model, folder)}"),
        source=quoted(f"file:{path_from(data_file, folder)}"),
        licence=quoted(licences[0]),
        data_licence=quoted(licences[1]),
        **{key: quoted(value) for key, value in facts_of(config).items()},
        **kinds_of(config),
        **shape(found, len(parts["train"]), len(labels) if not config.multi_label else 0),
        **balance([row["label"] for row in rows]),
        paired=init_classify.paired(len(parts["test"])),
        name=name,
        max_length=length,
    )
    recipe = anchored(parse(yaml.safe_load(text), str(target)), folder.absolute())
    with hinting(several):
        preflight(recipe, model, data_file.parent)
    with target.open("x", encoding="utf-8") as stream:
        stream.write(text)
    counts = {split: len(part) for split, part in parts.items()}
    return {"recipe": str(target), "name": name, "labels": labels, "rows": counts, "max_length": length} | {
        "layers": found.layers,
        "head_replaced": task == "classify" and replaces_head(found),
        "few_test_rows": counts["test"] < FEW_TESTS,
        "several": several,
    }


@contextmanager
def hinting(sentence: str | None) -> Iterator[None]:
    """Add a sentence, if there is one, to a refusal of which it may be the cause."""
    try:
        yield
    except ShrinkError as error:
        raise ShrinkError(f"{error} {sentence}" if sentence else str(error)) from None


def several_in(labels: list[str], config: DataConfig) -> str | None:
    """What to type where labels such as a, b and a|b look like sets of labels; None where they do not."""
    if (mark := multilabel.separator_in(labels)) is None:
        return None
    such = next(name for name in labels if mark in name)
    how = f"--multi-label --label-separator {mark!r}" if config.format == "csv" else "--multi-label, as JSON lists"
    return f"Labels such as {such!r:.60} look like several at once: if they are, give {how}."


def check_target(name: str, target: Path) -> None:
    """Refuse a name that is none of a recipe's, or taken."""
    if not re.fullmatch(NAME, name):
        raise ShrinkError(f"name is '{name:.80}' but {NAMING}; choose another.")
    if name in shipped():
        raise ShrinkError(f"name is '{name}' but a shipped recipe is called so; choose another.")
    if target.exists():
        raise ShrinkError(f"'{target}' exists; choose another name or remove it.")


def data_config(file: Path, columns: tuple[str, str | None], kinds: dict[str, Any]) -> DataConfig:
    """How the labelled file is read, by its ending."""
    if file.suffix.lower() not in FORMATS:
        raise ShrinkError(f"data is '{file}' but must end in {', '.join(FORMATS)}; convert it to CSV or JSON lines.")
    if not file.is_file():
        raise ShrinkError(f"data is '{file}' but there is no such file; name a CSV or JSONL file.")
    content = {"file": file.name, "format": FORMATS[file.suffix.lower()], **kinds}
    if content.get("label_separator") == "":
        raise ShrinkError("label_separator is empty; give what stands between two labels.")
    return DataConfig.model_validate({**content, "text_column": columns[0], "label_column": columns[1]})


def facts_of(config: DataConfig) -> dict[str, str | None]:
    """The template's data fields."""
    return {
        "data_file": config.file,
        "format": config.format,
        "text_column": config.text_column,
        "label_column": config.label_column,
    }


def kinds_of(config: DataConfig) -> dict[str, str]:
    """The template's lines for pairs and for several labels a row; empty where the data has none."""
    separator = f"  label_separator: {quoted(config.label_separator)}\n" if config.label_separator else ""
    return {
        "pair": f"  pair_column: {quoted(config.pair_column)}\n" if config.pair_column else "",
        "several": f"  multi_label: true\n{separator}" if config.multi_label else "",
    }


def shape(found: layout.Layout, train_rows: int, labels: int) -> dict[str, Any]:
    """What the stages keep of the model and how long they train; `labels` is 0 where a row has several."""
    epochs = 2 if train_rows >= FEW_ROWS else 4
    cut = found.layers > 3
    narrower = (found.architecture, "ffn") not in architectures.REFUSED
    tuned = f", tuned_layers: {found.layers}" if found.architecture == "albert" else ""  # its layers share weights
    return {
        "epochs": epochs,
        "distill_epochs": epochs,
        "embed_epochs": 2 * epochs,
        "second_teacher": 0.5 if labels == 2 else 0,
        "tuned": tuned,
        "layers": spread(found.layers),
        "ffn": f", ffn: {max(8, found.ffn // 16 * 8)}" if narrower else "",
        "bytes_ratio": 10 if cut else 4,
        "speed_ratio": 3 if cut else 1.5,
    }


def balance(labels: list[Any]) -> dict[str, str]:
    """The metric and the weights of labels: accuracy, but micro_f1 where rows have several labels.

    Where one label is so frequent that saying it always would look good: macro_f1, and rare labels weigh more, for the
    floor too (else it would be an easy one to beat).
    """
    if isinstance(labels[0], list):
        return {"metric": "micro_f1", "metrics": "macro_f1, accuracy (the whole set)", "weights": "", "floor": ""}
    if max(Counter(labels).values()) <= FREQUENT * len(labels):
        return {"metric": "accuracy", "metrics": "macro_f1, mcc", "weights": "", "floor": ""}
    weighted = "class_weights: balanced"
    return {
        "metric": "macro_f1",
        "metrics": "accuracy, mcc",
        "weights": f", {weighted}",
        "floor": f"floor: {{kind: floor, {weighted}}}   # rare labels count as much as frequent ones\n",
    }


def spread(layers: int) -> list[int]:
    """The kept layers: half of them, a third of more than six, at least two, evenly from the first to the last."""
    kept = max(2, layers // 3 if layers > 6 else layers // 2)
    if layers <= kept:
        return list(range(layers))
    return [number * (layers - 1) // (kept - 1) for number in range(kept)]


def max_length(texts: list[Text], found: layout.Layout) -> int:
    """The length in tokens within which nearly all texts stay whole: a multiple of 16 that the model can read."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(found.folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    lengths = sorted(len(encoding.ids) for encoding in tokenizer.encode_batch(sample))
    wanted = lengths[min(len(lengths) - 1, int(LONG * len(lengths)))]
    return min(-(-wanted // 16) * 16, found.positions, 512)


def replaces_head(found: layout.Layout) -> bool:
    """Whether the model comes with a classifier of its own, which the finetune stage does not use."""
    classes = layout.read_json(found.folder / "config.json").get("architectures") or []
    return any("SequenceClassification" in str(one) for one in classes)


def path_from(path: Path, folder: Path) -> str:
    """The path as the recipe says it: relative where it lies below the recipe's folder, so that both move together."""
    whole, base = (Path(os.path.abspath(one)) for one in (path, folder))  # links keep their names
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else whole.as_posix()


def quoted(value: str | None) -> str:
    """A string as YAML reads it back, whatever it holds, or null."""
    return json.dumps(value, ensure_ascii=False)
