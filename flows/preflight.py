"""What can be refused before any training: a look at the resolved sources, without torch, in well under a second.

`compress` calls it before a run is opened, so that a refusal leaves nothing behind; `shrink init` calls it too.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import lessons, roles
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import architectures, data, extras, layout, pairs, pieces
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.embed import adopt, static
from tasks.embed.adopt import AdoptConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.label import LabelConfig
from tasks.prune import width as widths
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import KINDS, PruneVocabularyConfig
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.students import StudentConfig, StudentMethods, StudentMobilebertConfig, architecture, check_padding
from tasks.teachers import MAIN

SAMPLE = 2000  # texts that are cut into pieces, spread over the file


def preflight(
    recipe: Recipe, teacher_directory: Path, data_directory: Path, others: Mapping[str, Path] | None = None
) -> None:
    """Raise ShrinkError when the sources cannot go through the recipe's stages; `others`: further teachers by name."""
    model = layout.read(teacher_directory)
    more = {name: layout.read(directory) for name, directory in (others or {}).items()}
    rows, labels = data.labelled_rows(data_directory, recipe.data)
    splits = data.split_rows(rows, recipe.data.split)
    data.check_splits(splits, labels)
    check_extras(recipe)
    if not recipe.data.multi_label:  # several labels a row have no folds
        check_folds(recipe, splits["train"], labels)
    check_calibration(recipe, len(splits["train"]))
    for file in recipe.data.transfer:
        data.require_file(data_directory, file, "transfer")
    for name, one in {MAIN: model, **more}.items():
        check_lengths(recipe, one, name)
        check_texts(recipe, one, rows, name)
    check_stages(recipe, model, labels, more)


def check_extras(recipe: Recipe) -> None:
    """Libraries that only some stages need must be installed."""
    for number, stage in enumerate(recipe.stages, start=1):
        for library in getattr(stage, "needs", ()):
            extras.require(library, f"stage {number} ({stage.kind}/{getattr(stage, 'method', '')}): ")
    for library in getattr(recipe.floor, "needs", ()):
        extras.require(library, "floor: ", extra="model2vec", instead=static.INSTEAD)


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
            where = f"stage {number} ({stage.kind}/{getattr(stage, 'method', '')})"
            raise ShrinkError(
                f"{where}: calibration_rows is {wanted} but the data has {texts} training texts: lower it."
            )


def check_lengths(recipe: Recipe, model: layout.Layout, name: str = MAIN) -> None:
    """The inputs' length against the model's positions."""
    if recipe.data.max_length > model.positions:
        raise ShrinkError(
            f"data.max_length is {recipe.data.max_length} but {called(name)} reads {model.positions} tokens: lower it."
        )


def check_texts(recipe: Recipe, model: layout.Layout, rows: list[dict[str, Any]], name: str = MAIN) -> None:
    """Most texts must hold a word piece that the teacher's tokenizer knows."""
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    texts = [row["text"] for row in sample]
    if recipe.data.pair_column is not None:
        pairs.check_template(model.folder / "tokenizer.json", texts, [row["id"] for row in sample])
    lost = pieces.unknown(model.folder / "tokenizer.json", texts)
    if 2 * len(lost) > len(sample):
        raise ShrinkError(
            f"{len(lost) / len(sample):.0%} of the texts in {recipe.data.file}, such as row {sample[lost[0]]['id']}, "
            f"have no piece that {called(name)}'s tokenizer knows: take a teacher of their language, or drop them."
        )


def called(name: str) -> str:
    """A teacher in a sentence."""
    return "the teacher" if name == MAIN else f"the teacher {name!r}"


def check_stages(
    recipe: Recipe, model: layout.Layout, labels: list[str], others: Mapping[str, layout.Layout] | None = None
) -> None:
    """The sizes that stages ask for against those that student and teachers have when they run."""
    held, embedded = roles.first({MAIN: model, **(others or {})}, recipe.stages), False
    for number, stage in enumerate(recipe.stages, start=1):
        where, made = f"stage {number} ({stage.kind})", held["student"]
        if isinstance(stage, FinetuneConfig):
            made = held[stage.teacher]
        if (use := architectures.USES.get(f"{stage.kind}/{getattr(stage, 'method', '')}")) is not None:
            architectures.check_use(made.architecture, use, where)
        match stage:
            case AdoptConfig():
                adopt.check_pooling(made.folder)
                made = cropped(where, stage.keep_layers, made)
            case FinetuneConfig():
                made = cropped(where, stage.keep_layers, made)
                if made.architecture == "albert" and stage.tuned_layers < made.layers:
                    raise ShrinkError(
                        f"{where}: tuned_layers is {stage.tuned_layers} but {architectures.SHARED}: "
                        f"set it to {made.layers}."
                    )
            case LabelConfig():
                made = held[stage.pooled_of]
                if stage.second_teacher and len(labels) != 2:
                    raise ShrinkError(
                        f"{where}: second_teacher is {stage.second_teacher} but the data has {len(labels)} labels: "
                        "it works with two only, set it to 0."
                    )
            case PruneVocabularyConfig() if model.tokenizer not in KINDS:
                raise ShrinkError(
                    f"{where}: the tokenizer is {model.tokenizer} but only {', '.join(KINDS)} can be pruned: "
                    "drop this stage."
                )
            case PruneStructuredConfig():
                made = cut(where, stage, made)
            case PruneLowRankConfig():
                if made.factorised:
                    raise ShrinkError(f"{where}: the embedding is factorised already: drop this stage.")
                if stage.rank >= made.columns:
                    raise ShrinkError(
                        f"{where}: rank is {stage.rank} but the embedding has {made.columns} columns: give less."
                    )
                made = made.model_copy(update={"columns": stage.rank, "factorised": True})
            case DistillQuantizedConfig():
                check_columns(where, stage.target.embedding, made.columns)
            case DistillLogitsConfig() if stage.afresh:
                made = held["start"]
            case DistillSelfConfig():
                kept = limited(where, "keep", stage.keep or made.layers, made.layers)
                made = made.model_copy(update={"layers": kept})
            case StudentConfig():
                check_padding(stage, made.pad, where)
                made = fresh(stage, made)
            case Int8DynamicConfig() | Int8StaticConfig() | Int4WeightOnlyConfig() if stage.embedding != "none":
                check_columns(where, stage.embedding, made.columns)
                if embedded:
                    raise ShrinkError(f"{where}: the embedding is quantized already: set embedding to none here.")
                embedded = True
        lessons.check(where, stage, held)
        roles.write(held, stage, made)


def cropped(where: str, layers: int | None, source: layout.Layout) -> layout.Layout:
    """The sizes of a teacher that is made of the bottom layers of a source."""
    kept = limited(where, "keep_layers", layers or source.layers, source.layers)
    return source.model_copy(update={"layers": kept})


def fresh(stage: StudentMethods, teacher: layout.Layout) -> layout.Layout:
    """The sizes of a student that is made anew with its teacher's tokenizer."""
    inside = stage.bottleneck if isinstance(stage, StudentMobilebertConfig) else stage.width
    sizes = {"layers": stage.layers, "ffn": stage.ffn, "heads": stage.heads, "width": stage.width}
    sizes |= {"columns": stage.embedding if isinstance(stage, StudentMobilebertConfig) else stage.width}
    return teacher.model_copy(
        update={
            **sizes,
            "factorised": False,
            "head_size": inside // stage.heads,
            "architecture": architecture(stage),
        }
    )


def cut(where: str, stage: PruneStructuredConfig, student: layout.Layout) -> layout.Layout:
    """The sizes that are left of a student."""
    layers = student.layers
    if stage.layers is not None:
        wanted = list(stage.layers)
        if not wanted or sorted(set(wanted)) != wanted or wanted[0] < 0 or wanted[-1] >= layers:
            raise ShrinkError(
                f"{where}: layers is {wanted} but must be rising indices from 0 to {layers - 1}: correct the list."
            )
        if student.architecture == "modernbert" and wanted[0] != 0:
            raise ShrinkError(f"{where}: layers is {wanted} but {architectures.FIRST}")
        layers = len(wanted)
    for part in ("ffn", "heads"):
        if getattr(stage, part) is not None:
            architectures.check_use(student.architecture, part, f"{where}: {part}")
    ffn = limited(where, "ffn", stage.ffn or student.ffn, student.ffn)
    heads = limited(where, "heads", stage.heads or student.heads, student.heads)
    sizes = {"layers": layers, "ffn": ffn, "heads": heads}
    if stage.hidden is not None:
        widths.check(where, student.architecture, stage.hidden, student.width, student.head_size, student.factorised)
        sizes |= {"columns": stage.hidden, "width": stage.hidden}
    return student.model_copy(update=sizes)


def check_columns(where: str, bits: str, columns: int) -> None:
    """Two int4 numbers share a byte, so a row needs an even count of them."""
    if bits == "int4" and columns % 2:
        raise ShrinkError(
            f"{where}: embedding is int4, which needs an even number of columns, but there are {columns}: set int8."
        )


def limited(where: str, field: str, wanted: int, present: int) -> int:
    """The wanted count, refused when the model has fewer."""
    if wanted > present:
        raise ShrinkError(f"{where}: {field} is {wanted} but the model has only {present} there: give at most that.")
    return wanted
