"""The command `shrink init`: a recipe for one's own model and data, by its task."""

from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from flows import console as screen
from flows.cli_common import Json, say
from registry.records import ShrinkError, Task


def init(
    name: Annotated[str, typer.Argument(help="the recipe's and the model's name: NAME.yaml is written here")],
    data: Annotated[
        Path,
        typer.Option(
            help="CSV or JSONL file with a text a row, labelled unless for embeddings; to generate also a text file, "
            "or a folder of text files"
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            help="folder with config.json, model.safetensors and tokenizer.json; to generate also a GGUF file"
        ),
    ],
    text_column: Annotated[str, typer.Option(help="column or key of the text")] = "text",
    label_column: Annotated[
        str | None, typer.Option(help="column or key of the label; by default 'label', of embeddings none")
    ] = None,
    pair_column: Annotated[str | None, typer.Option(help="column or key of a second text, for pairs")] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="rows have any number of labels")] = False,
    label_separator: Annotated[
        str | None, typer.Option(help="between the labels of a CSV cell (--multi-label)")
    ] = None,
    second_data: Annotated[
        Path | None, typer.Option(help="to generate: a text file of another domain, judged on, never learnt from")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="classify; embed: sentence vectors, which need no labels; generate: a language model that writes"
        ),
    ] = "classify",
    licence: Annotated[str, typer.Option(help="the model's licence, for the card")] = "unknown",
    data_licence: Annotated[str, typer.Option(help="the data's licence, for the card")] = "unknown",
    as_json: Json = False,
) -> None:
    """Write a recipe for your own model and data, after checking both."""
    from flows import init as encoder
    from flows import init_decoder

    if task not in get_args(Task):
        raise ShrinkError(f"task is {task!r} but must be one of: {', '.join(get_args(Task))}.")
    kinds = {"pair_column": pair_column, "multi_label": multi_label, "label_separator": label_separator}
    licences = (licence, data_licence)
    if task == "generate":
        refuse(task, kinds | {"label_column": label_column})
        found = init_decoder.write(name, data, model, second_data, text_column, licences)
        say(found, as_json, screen.fitted("\n".join(of_documents(found))))
        return
    refuse(task, {"second_data": second_data})
    column = label_column or ("label" if task == "classify" else None)
    found = encoder.write(name, data, model, (text_column, column), licences, task=cast(Task, task), kinds=kinds)
    say(found, as_json, screen.fitted("\n".join(of_rows(found))))


def refuse(task: str, given: dict[str, Any]) -> None:
    """Options that are for another task."""
    if wrong := next((option for option, value in given.items() if value), None):
        raise ShrinkError(f"{wrong} is given but is not for task {task}; leave it out.")


def of_rows(found: dict[str, Any]) -> list[str]:
    """What is told of a recipe for rows."""
    rows = ", ".join(f"{split} {count}" for split, count in found["rows"].items())
    named = ", ".join(found["labels"][:8]) + (", …" if len(found["labels"]) > 8 else "")
    labels = f"{len(found['labels'])} labels ({named})" if found["labels"] else "no labels"
    lines = [f"{found['recipe']} written: {labels}, rows: {rows}"]
    if found["few_test_rows"]:
        lines.append("few test rows: the intervals will be wide and the gate hard to pass; label more if you can")
    if found["several"]:
        lines.append(found["several"])
    if found["head_replaced"]:
        lines.append("the model's own classifier is not used: the finetune stage trains a new one on your labels")
    return [*lines, following(found)]


def of_documents(found: dict[str, Any]) -> list[str]:
    """What is told of a recipe for documents."""
    from flows import units

    counts = ", ".join(f"{split} {count}" for split, count in found["documents"].items())
    size, tokens = units.size(found["bytes"]), units.count(found["train_tokens"])
    lines = [f"{found['recipe']} written: {size} of text, documents: {counts} (train about {tokens} tokens)"]
    lines.append(
        f"the teacher is {found['teacher']}; the student will take about {found['bits_per_weight']} bits a weight"
    )
    if found["corrected"]:
        lines.append("its weights are rounded already: the correct stage moves them off their grid first")
    if found["few_test_documents"]:
        lines.append("few test documents: the intervals will be wide and the gate hard to pass; give more if you can")
    if found["little_text"]:
        lines.append("little text to learn from: rounding fits to less, and answers less well; give more if you can")
    if found["runtime"] == "transformers":
        lines.append("judged in transformers: llama.cpp, which is faster, is not installed (README)")
    return [*lines, following(found)]


def following(found: dict[str, Any]) -> str:
    """The commands that come next."""
    return f"next:   shrink run {found['recipe']} --smoke  ·  shrink run {found['recipe']}"
