"""What can be refused of a `generate` recipe before any work: the decoder's file, documents, windows, calibration."""

from collections.abc import Mapping
from pathlib import Path

from flows import units
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import tables
from tasks.generate import documents, header
from tasks.generate.documents import DocumentsConfig


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
    have = sum(len(row["text"].encode()) for row in parts["train"])  # a token has a byte at least
    for number, stage in enumerate(recipe.stages, start=1):
        blocks, length = getattr(stage, "calibration_blocks", 0), getattr(stage, "calibration_length", 0)
        if blocks * length > have:
            raise ShrinkError(
                f"{units.numbered(number, stage)}: calibration_blocks is {blocks} of {length} tokens but the training "
                f"text has {have} bytes: lower it, or give more text."
            )
