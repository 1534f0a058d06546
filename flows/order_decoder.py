"""Which orders of a `generate` recipe's stages cannot work: grids that an export cannot hold, pieces numbered anew."""

from typing import TYPE_CHECKING

from flows import roles, units
from registry.records import ShrinkError
from tasks.distill.rounded import DistillRoundedConfig
from tasks.export.compressed_tensors import CompressedTensorsConfig
from tasks.export.gguf import GgufConfig
from tasks.generate.choices import GGUF_GRIDS, gguf_missing, integers_missing
from tasks.generate.correct import CorrectConfig
from tasks.generate.top_k import LabelTopKConfig
from tasks.kinds import AnyChainConfig, PackIntegers, RoundDecoders
from tasks.prune.merges import PruneMergesConfig
from tasks.quantize.llama_cpp import LlamaCppConfig
from tasks.quantize.w8a8 import W8a8Config

if TYPE_CHECKING:
    from flows.recipe import Recipe

Rounding = RoundDecoders | LlamaCppConfig


def check(recipe: "Recipe") -> None:
    """Refuse what could not be exported or taught, when the recipe is read."""
    check_rounding(recipe)
    check_blocks(recipe)
    check_integers(recipe)
    check_pieces(recipe)
    check_beside(recipe)


def check_rounding(recipe: "Recipe") -> None:
    """Refuse what would undo a rounding, or discard what was made of the student, and what needs a rounding before."""
    rounded = changed = None
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        said = f"recipe '{recipe.name}': {where}"
        if isinstance(stage, CorrectConfig) and changed:
            raise ShrinkError(f"{said} makes the teacher anew and would discard what {changed} made; put it before.")
        if isinstance(stage, DistillRoundedConfig):
            if not rounded:
                raise ShrinkError(
                    f"{said} teaches rounded weights, which no stage made yet; put it behind a quantize stage, such as "
                    "quantize/gptq."
                )
        elif isinstance(stage, W8a8Config) and rounded:
            raise ShrinkError(f"{said} rounds whole weights, which {rounded} has rounded; put it before that one.")
        elif isinstance(stage, Rounding) and rounded:
            raise ShrinkError(f"{said} rounds anew what {rounded} has rounded; leave one of them out.")
        elif rounded and stage.kind in {"prune", "distill"}:
            raise ShrinkError(f"{said} would undo what {rounded} has rounded; put it before that one.")
        rounded = where if isinstance(stage, Rounding) else rounded
        made = stage.writes[1] == "lm" or isinstance(stage, LlamaCppConfig)
        changed = where if roles.role_of(stage) == "student" and made else changed


def packs(stage: AnyChainConfig) -> bool:
    """Whether an export packs the student's integers: one of what w8a8 made has others."""
    return isinstance(stage, PackIntegers) and getattr(stage, "model", "student") == "student"


def check_beside(recipe: "Recipe") -> None:
    """Refuse to change the student behind what stands beside it: that would be another model than the one served."""
    made: str | None = None
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        if made and (stage.kind in {"prune", "distill"} or isinstance(stage, CorrectConfig)):
            raise ShrinkError(
                f"recipe '{recipe.name}': {where} changes the model that {made} was made of; put it before that one."
            )
        made = where if isinstance(stage, PackIntegers | W8a8Config) else made


def check_integers(recipe: "Recipe") -> None:
    """Refuse to pack integers of a student whose layers are not rounded, or to grids that the format cannot hold."""
    rounded: tuple[str, RoundDecoders] | None = None
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        if isinstance(stage, RoundDecoders):
            rounded = where, stage
        elif not packs(stage):
            continue
        elif rounded is None:
            raise ShrinkError(
                f"recipe '{recipe.name}': {where} packs integers, which no quantize stage made; put one, such as "
                "{kind: quantize, method: gptq, grid: int4_g64}, before it."
            )
        elif isinstance(stage, CompressedTensorsConfig) and (grid := integers_missing(rounded[1])):
            raise ShrinkError(
                f"recipe '{recipe.name}': {rounded[0]} rounds to {grid}, which the compressed-tensors of {where} "
                "cannot hold; choose among q4_0, q5_0, q8_0 and integers such as int4_g64."
            )


def check_blocks(recipe: "Recipe") -> None:
    """Refuse to round to integers that the GGUF file behind has no blocks of, unless an export beside it packs them.

    The file then holds what they mean in half precision, so that their quality is judged.
    """
    rounded: tuple[str, str] | None = None
    if any(packs(stage) for stage in recipe.stages):
        return
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        if isinstance(stage, RoundDecoders):
            missing = gguf_missing(stage)
            rounded = (where, missing) if missing else None
        elif isinstance(stage, GgufConfig) and rounded:
            raise ShrinkError(
                f"recipe '{recipe.name}': {rounded[0]} rounds to {rounded[1]}, which the GGUF file of {where} cannot "
                f"hold; choose among {', '.join(GGUF_GRIDS)}, or pack the integers beside it, before it, by {{kind: "
                "export, method: compressed_tensors} or matmul_nbits."
            )


def check_pieces(recipe: "Recipe") -> None:
    """Refuse to teach a language model by pieces that its vocabulary was cut out of: their numbers are others there."""
    cut: str | None = None
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        if cut and stage.kind == "distill":
            raise ShrinkError(
                f"recipe '{recipe.name}': {where} learns from the teacher's pieces, which {cut} numbers anew; put it "
                "before that one."
            )
        cut = where if isinstance(stage, PruneMergesConfig) else cut
        if isinstance(stage, LabelTopKConfig) and stage.model == "student":
            cut = None  # its answers are in the new numbers
