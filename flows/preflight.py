"""What can be refused before any training: a look at the resolved sources, without torch, in well under a second.

`compress` calls it before a run is opened, so that a refusal leaves nothing behind; `shrink init` calls it too.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import preflight_decoder, units
from flows.forecast.sizes import check_stages
from flows.recipe import BEHAVIOUR, Recipe
from registry.records import ShrinkError
from tasks import checklist, data, extras, layout, pairs, pieces, slices, splits, tables
from tasks.embed import static
from tasks.embed.floor import EmbedFloorConfig
from tasks.floor import FloorConfig
from tasks.teachers import MAIN

COMPILED = "set evaluate.runtime to transformers (it compiles: give it a C++ compiler and cmake, minutes)"
SAMPLE = 2000  # texts that are cut into pieces, spread over the file


def preflight(
    recipe: Recipe, teacher_directory: Path, data_directory: Path, others: Mapping[str, Path] | None = None
) -> None:
    """Raise ShrinkError when the sources cannot go through the recipe's stages; `others`: further teachers by name."""
    check_extras(recipe)
    if recipe.behaviour is not None and recipe.task == "generate":
        checklist.fit(checklist.read((others or {})[BEHAVIOUR]), recipe.task, (), paired=False)
    if recipe.task == "generate":
        preflight_decoder.preflight(recipe, teacher_directory, data_directory, others or {})
        return
    model = layout.read(teacher_directory)
    more = {name: layout.read(path) for name, path in (others or {}).items() if name != BEHAVIOUR}
    rows, labels = data.labelled_rows(data_directory, recipe.rows)
    parts = splits.split_rows(rows, recipe.rows.split)
    splits.check_splits(parts, labels, recipe.rows.limit)
    if not recipe.rows.multi_label:  # several labels a row have no folds
        check_folds(recipe, parts["train"], labels)
    slices.check(rows, recipe.rows.kept)
    if recipe.behaviour is not None:
        checks = checklist.read((others or {})[BEHAVIOUR])
        checklist.fit(checks, recipe.task, labels, recipe.rows.pair_column is not None)
    check_calibration(recipe, len(parts["train"]))
    for file in recipe.rows.transfer:
        tables.require_file(data_directory, file, "transfer")
    check_floor(recipe, data_directory, parts["train"], rows)
    for name, one in {MAIN: model, **more}.items():
        check_lengths(recipe, one, name)
        check_texts(recipe, one, rows, name)
    check_stages(recipe, model, labels, more)


def check_extras(recipe: Recipe) -> None:
    """Libraries that only some stages need must be installed."""
    for number, stage in enumerate(recipe.stages, start=1):
        for library in getattr(stage, "needs", ()):
            extras.require(library, f"{units.numbered(number, stage)}: ")
    for library in getattr(recipe.evaluate, "needs", ()):
        extras.require(library, "evaluate: ", instead=COMPILED)
    for library in getattr(recipe.floor, "needs", ()):
        extras.require(library, "floor: ", extra="model2vec", instead=static.INSTEAD)


def check_floor(recipe: Recipe, source: Path, train: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """A word of the floor cannot stand in more texts than it reads: those of training, for embeddings transfer too."""
    if not isinstance(recipe.floor, FloorConfig | EmbedFloorConfig):
        return
    texts, wanted = len(train), recipe.floor.min_df
    if wanted > texts and recipe.task == "embed":
        texts += len(data.transfer_rows(source, recipe.rows, {splits.normalise(row["text"]) for row in rows}))
    if wanted > texts:
        raise ShrinkError(f"floor.min_df is {wanted} but the data has {texts} training texts: lower floor.min_df.")


def check_folds(recipe: Recipe, train: list[dict[str, Any]], labels: list[str]) -> None:
    """Every fold of the floor needs a train row of every label; vectors need none."""
    if not isinstance(recipe.floor, FloorConfig):
        return
    counts = Counter(row["label"] for row in train)
    number, least = min(counts.items(), key=lambda item: item[1])
    if least < recipe.floor.folds:
        raise ShrinkError(
            f"label {labels[number]!r} has {least} train rows but floor.folds is {recipe.floor.folds}: "
            "give more rows of it, or lower floor.folds."
        )


def check_calibration(recipe: Recipe, texts: int) -> None:
    """Stages that look at training texts must not ask for more than there are."""
    for number, stage in enumerate(recipe.stages, start=1):
        if (wanted := getattr(stage, "calibration_rows", 0)) > texts:
            raise ShrinkError(
                f"{units.numbered(number, stage)}: calibration_rows is {wanted} but the data has {texts} training "
                "texts: lower it."
            )


def check_lengths(recipe: Recipe, model: layout.Layout, name: str = MAIN) -> None:
    """The inputs' length against the model's positions."""
    if recipe.rows.max_length > model.positions:
        raise ShrinkError(
            f"data.max_length is {recipe.rows.max_length} but {called(name)} reads {model.positions} tokens: lower it."
        )


def check_texts(recipe: Recipe, model: layout.Layout, rows: list[dict[str, Any]], name: str = MAIN) -> None:
    """Most texts must hold a word piece that the teacher's tokenizer knows."""
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    texts = [row["text"] for row in sample]
    if recipe.rows.pair_column is not None:
        pairs.check_template(model.folder / "tokenizer.json", texts, [row["id"] for row in sample])
    lost = pieces.unknown(model.folder / "tokenizer.json", texts)
    if 2 * len(lost) > len(sample):
        raise ShrinkError(
            f"{len(lost) / len(sample):.0%} of the texts in {recipe.rows.file}, such as row {sample[lost[0]]['id']}, "
            f"have no piece that {called(name)}'s tokenizer knows: take a teacher of their language, or drop them."
        )


def called(name: str) -> str:
    """A teacher in a sentence."""
    return "the teacher" if name == MAIN else f"the teacher {name!r}"
