"""What can be refused of a `generate` recipe before any work: the decoder's file, documents, windows, calibration."""

from collections.abc import Mapping
from pathlib import Path

from flows import units
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import tables
from tasks.export.gguf import GgufConfig
from tasks.generate import choices, documents, gguf_fit, header
from tasks.generate.documents import DocumentsConfig
from tasks.kinds import RoundDecoders
from tasks.prune.decoder_width import PruneWidthConfig
from tasks.prune.sparse import PruneSparseConfig

BLOCK = 32  # weights of one of GGUF's blocks


def preflight(recipe: Recipe, teacher: Path, data: Path, others: Mapping[str, Path]) -> None:
    """Raise ShrinkError when the sources cannot go through the recipe's stages."""
    assert isinstance(recipe.data, DocumentsConfig)
    decoder = header.look(teacher)
    parts = documents.split_documents(data, recipe.data)
    if recipe.data.second_file:
        tables.require_file(others["second"], recipe.data.second_file, "data.second_file")
    if recipe.data.max_length > decoder.context:
        raise ShrinkError(
            f"data.max_length is {recipe.data.max_length} but the teacher reads {decoder.context} tokens: lower it."
        )
    if any(isinstance(stage, GgufConfig) for stage in recipe.stages):
        gguf_fit.check(teacher)
    check_groups(recipe, decoder.widths)
    have = sum(len(row["text"].encode()) for row in parts["train"])  # a token has a byte at least
    for number, stage in enumerate(recipe.stages, start=1):
        blocks, length = getattr(stage, "calibration_blocks", 0), getattr(stage, "calibration_length", 0)
        if blocks * length > have:
            raise ShrinkError(
                f"{units.numbered(number, stage)}: calibration_blocks is {blocks} of {length} tokens but the training "
                f"text has {have} bytes: lower it, or give more text."
            )


def check_groups(recipe: Recipe, widths: tuple[int, ...]) -> None:
    """Refuse weights that share a scale, or neighbours of a pattern, in numbers that do not divide a row.

    A stage that cuts widths leaves others: what stands behind it is looked at when it runs.
    """
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        if isinstance(stage, PruneWidthConfig):
            return
        if isinstance(stage, PruneSparseConfig) and stage.pair is not None:
            what, size = f"pattern {stage.pattern}", stage.pair[1]
        elif isinstance(stage, RoundDecoders) and stage.grid is not None and not stage.exceptions:
            held = choices.integers(stage.grid)
            what, size = f"grid {stage.grid}", held.group if held else BLOCK
        else:
            continue
        for width in widths:
            if width % size:
                raise ShrinkError(
                    f"{where}: {what} has groups of {size}, which do not divide {width} inputs: {other(width)}"
                )


def other(width: int) -> str:
    """Groups that divide a row."""
    fits = [size for size in (16, 32, 64, 128) if width % size == 0]
    return f"choose groups of {' or '.join(map(str, fits))}." if fits else "this model has rows of too odd a length."
