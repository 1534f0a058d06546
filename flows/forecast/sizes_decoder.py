"""What each stage makes of the sizes of the decoder that it works on: refused where it asks for what is not there.

Sizes are those that the model's header says (tasks/generate/header.py), families those of tasks/generate/families.py;
no stage runs, torch is not imported.
"""

from collections.abc import Iterable

from flows import roles, units
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks.export.compressed_tensors import CompressedTensorsConfig
from tasks.export.matmul_nbits import MatmulNbitsConfig
from tasks.generate import choices, families, llama_types, nbits_fit
from tasks.generate.adopt import AdoptDecoderConfig
from tasks.generate.choices import RoundingConfig
from tasks.generate.correct import CorrectConfig
from tasks.generate.header import Decoder
from tasks.generate.top_k import LabelTopKConfig
from tasks.kinds import AnyChainConfig
from tasks.prune.decoder_width import PruneWidthConfig
from tasks.prune.depth import PruneDepthConfig
from tasks.prune.grouped import PruneGroupedConfig
from tasks.prune.merges import PruneMergesConfig
from tasks.prune.sparse import PruneSparseConfig
from tasks.quantize.llama_cpp import LlamaCppConfig
from tasks.quantize.rtn import RtnConfig
from tasks.teachers import MAIN

BLOCK = 32  # weights of one of GGUF's blocks
TABLE = "q8_0"  # of embedding and head, where a recipe does not say it


def check_stages(recipe: Recipe, decoder: Decoder) -> None:
    """The sizes that stages ask for against those that student and teacher have when they run."""
    held = roles.first({MAIN: decoder}, recipe.stages)
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        for field, length in (("length", getattr(stage, "length", 0)), ("calibration_length", calibrated(stage)[1])):
            if length > decoder.context:
                raise ShrinkError(
                    f"{where}: {field} is {length} tokens but the model reads {decoder.context}: lower it."
                )
        roles.write(held, stage, after(where, stage, held))


def calibrated(stage: AnyChainConfig) -> tuple[int, int]:
    """Blocks of text that go through the layers, and tokens of one; none where a stage reads no text."""
    if isinstance(stage, RtnConfig) and stage.grid is not None:
        return 0, 0
    if isinstance(stage, LlamaCppConfig) and not stage.importance:
        return 0, 0
    return getattr(stage, "calibration_blocks", 0), getattr(stage, "calibration_length", 0)


def after(where: str, stage: AnyChainConfig, held: dict[str, Decoder]) -> Decoder:
    """The sizes of what a stage leaves, of what is held when it runs; ShrinkError when it cannot."""
    student = held["student"]
    match stage:
        case AdoptDecoderConfig():
            layers = min(stage.keep_layers or student.layers, student.layers)
            return cut(held[MAIN], layers=layers) if layers < student.layers else held[MAIN]
        case CorrectConfig():
            listed(where, stage.layers, held[MAIN].layers)
            return held[MAIN]
        case LabelTopKConfig():
            limited(where, "k", stage.k, held[stage.model].pieces, "pieces")
            return held[stage.model]
        case PruneDepthConfig():
            listed(where, stage.layers, student.layers)
            kept = limited(where, "keep", stage.keep or student.layers, student.layers, "layers")
            return cut(student, layers=len(set(stage.layers)) if stage.layers else kept)
        case PruneWidthConfig():
            return narrowed(where, stage, student)
        case PruneGroupedConfig():
            return grouped(where, stage, student)
        case PruneMergesConfig():
            if student.tokenizer != "BPE":
                raise ShrinkError(
                    f"{where}: the tokenizer is {student.tokenizer}, which has no joins: drop this stage."
                )
            limited(where, "pieces", stage.pieces or 0, student.pieces, "pieces")
            return cut(student)
        case PruneSparseConfig() if stage.pair is not None:
            check_groups(where, f"pattern {stage.pattern}", stage.pair[1], inputs(student).values())
        case CompressedTensorsConfig() if reason := families.unpacked(student.family):
            raise ShrinkError(f"{where}: {reason}")
        case MatmulNbitsConfig():
            check_graph(where, student)
        case RoundingConfig():
            check_grids(where, stage, student)
        case LlamaCppConfig():
            check_type(where, stage, student)
    return student


def cut(decoder: Decoder, **sizes: int) -> Decoder:
    """A decoder of other sizes, of which it is not known any more how few bits it can take."""
    return decoder.model_copy(update={**sizes, "least": 0.0})


def limited(where: str, field: str, wanted: int, present: int, what: str) -> int:
    """A count that is no higher than what the model has."""
    if wanted > present:
        raise ShrinkError(f"{where}: {field} is {wanted} but the model has {present} {what}: give at most that.")
    return wanted


def listed(where: str, layers: tuple[int, ...] | None, present: int) -> None:
    """Layers that are named must be there."""
    if layers is not None and (not layers or min(layers) < 0 or max(layers) >= present):
        raise ShrinkError(
            f"{where}: layers is {list(layers)} but the model has 0 to {present - 1}: name some of these."
        )


def narrowed(where: str, stage: PruneWidthConfig, student: Decoder) -> Decoder:
    """The sizes of a student whose layers are cut narrower."""
    check_family(where, student, [field for field in ("ffn", "groups", "hidden") if getattr(stage, field) is not None])
    ffn = limited(where, "ffn", stage.ffn or student.neurons, student.neurons, "neurons")
    groups = limited(where, "groups", stage.groups or student.groups, student.groups, "groups of heads")
    width = limited(where, "hidden", stage.hidden or student.width, student.width, "features")
    queries = student.queries // student.groups * groups
    return cut(student, neurons=ffn, groups=groups, queries=queries, width=width)


def grouped(where: str, stage: PruneGroupedConfig, student: Decoder) -> Decoder:
    """The sizes of a student whose queries share fewer keys and values."""
    check_family(where, student, ["kv_heads"])
    if student.groups % stage.kv_heads:
        good = ", ".join(str(count) for count in range(1, student.groups + 1) if student.groups % count == 0)
        raise ShrinkError(
            f"{where}: kv_heads is {stage.kv_heads}, which does not divide the model's {student.groups}: "
            f"give one of {good}."
        )
    return cut(student, groups=stage.kv_heads)


def check_family(where: str, student: Decoder, fields: list[str]) -> None:
    """Parts can only be cut where it is known where they lie."""
    for reason in (families.unknown(student.family), *(families.uncut(student.family, field) for field in fields)):
        if reason:
            raise ShrinkError(f"{where}: {reason}")


def inputs(student: Decoder) -> dict[str, int]:
    """The inputs of every linear layer by its whole name, and of embedding and head; in a family that is not known, by
    what it reads.
    """
    wide = student.queries * student.head
    if (where := families.ANATOMIES.get(student.family)) is None:
        return {"width": student.width, "heads": wide, "neurons": student.neurons}
    inside = dict.fromkeys((*where.into, *where.attention), student.width)
    inside |= {where.out: student.neurons, where.merge: wide}
    return {f"{where.layers}.{at}.{name}": width for at in range(student.layers) for name, width in inside.items()}


def tables(student: Decoder) -> dict[str, int]:
    """The same of the embedding and the head."""
    return dict.fromkeys(families.TABLES.get(student.family, families.TABLES["llama"]), student.width)


def check_graph(where: str, student: Decoder) -> None:
    """Refuse a family that export/matmul_nbits does not build, and one that even in 4 bits is too large for a file."""
    if reason := families.without_nbits(student.family) or nbits_fit.without_heads(student.family, student.head):
        raise ShrinkError(f"{where}: {reason}")
    if student.least and (reason := nbits_fit.too_large(student.parameters / 2)):  # it was not cut
        raise ShrinkError(f"{where}: {reason}")


def check_grids(where: str, stage: RoundingConfig, student: Decoder) -> None:
    """Every weight's row must be whole groups of the grid that it gets; an exception must name a layer."""
    if stage.target is not None and not (stage.exceptions or stage.embedding) and stage.target < student.least:
        raise ShrinkError(
            f"{where}: target is {stage.target:g} but the smallest grids take {student.least:.2f} bits a weight: "
            "raise it."
        )
    widths, least = inputs(student) | tables(student), choices.GGUF_GRIDS[0]  # what a target may buy
    taken = dict.fromkeys(inputs(student), stage.grid or least)
    taken |= dict.fromkeys(tables(student), stage.embedding or (TABLE if stage.grid else least))
    for pattern, grid in stage.exceptions.items():
        fitting = [name for name in taken if choices.fits(name, pattern)]
        if student.family not in families.ANATOMIES:
            return  # the names are known when it runs
        if not fitting:
            raise ShrinkError(
                f"{where}: exceptions names '{pattern}', which no layer is called: there are "
                f"{', '.join(list(taken)[:3])} and others."
            )
        taken |= dict.fromkeys(fitting, grid)
    for name, grid in taken.items():
        if grid != choices.KEPT:
            held = choices.integers(grid)
            check_groups(where, f"grid {grid}", held.group if held else BLOCK, [widths[name]], spared(name, student))


def check_type(where: str, stage: LlamaCppConfig, student: Decoder) -> None:
    """Rows must be whole blocks of the type that llama.cpp is to make."""
    try:
        llama_types.check(stage.type, student)
    except ShrinkError as error:
        raise ShrinkError(f"{where}: {error}") from None


def spared(name: str, student: Decoder) -> str:
    """What a recipe says to leave a weight that no group fits in half precision."""
    if name in tables(student):
        return "embedding: none"
    return f"exceptions: {{{name.rpartition('.')[2]}: none}}" if student.family in families.ANATOMIES else ""


def check_groups(where: str, what: str, size: int, widths: Iterable[int], instead: str = "") -> None:
    """Refuse weights that share a scale, or neighbours of a pattern, in numbers that do not divide a row."""
    for width in widths:
        if width % size:
            raise ShrinkError(
                f"{where}: {what} has groups of {size}, which do not divide {width} inputs: {other(width, instead)}"
            )


def other(width: int, instead: str) -> str:
    """Groups that divide a row, or what to say to leave it whole."""
    fits = [size for size in (16, 32, 64, 128) if width % size == 0]
    ways = [f"choose groups of {' or '.join(map(str, fits))}"] if fits else []
    ways += [f"leave such layers in half precision with `{instead}`"] if instead else []
    return f"{', or '.join(ways)}." if ways else "this model has rows of too odd a length."
