"""What can be refused of a `generate` recipe before any work: the decoder's file, documents, windows, calibration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import units
from flows.forecast import bits_decoder, sizes_decoder
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import layout, tables
from tasks.export.gguf import GgufConfig
from tasks.export.matmul_nbits import MatmulNbitsConfig
from tasks.generate import choices, documents, gguf_check, gguf_fit, header, llama_types, nbits_fit
from tasks.generate.adopt import gguf_of
from tasks.generate.documents import DocumentsConfig
from tasks.generate.header import Decoder
from tasks.kinds import RoundDecoders
from tasks.quantize.llama_cpp import LlamaCppConfig

HALVES = 16.0  # bits a weight, about, of a file with integers that its blocks cannot hold
ABOUT = 0.02  # how far off the foretold bits may be
GENERIC = {"PreTrainedTokenizerFast", "TokenizersBackend"}  # tokenizers that name no special token by themselves


def preflight(recipe: Recipe, teacher: Path, data: Path, others: Mapping[str, Path]) -> None:
    """Raise ShrinkError when the sources cannot go through the recipe's stages."""
    assert isinstance(recipe.data, DocumentsConfig)
    decoder = header.look(teacher)
    with layout.foreign("the teacher's tokenizer"):
        check_tokenizer(teacher)
    parts = documents.split_documents(data, recipe.data)
    if recipe.data.second_file:
        tables.require_file(others["second"], recipe.data.second_file, "data.second_file")
    if recipe.data.max_length > decoder.context:
        raise ShrinkError(
            f"data.max_length is {recipe.data.max_length} but the teacher reads {decoder.context} tokens: lower it."
        )
    if recipe.evaluate.task == "generate" and recipe.evaluate.prompts and recipe.evaluate.answer >= decoder.context:
        raise ShrinkError(
            f"evaluate.answer is {recipe.evaluate.answer} tokens but the teacher reads {decoder.context}, the prompt "
            "among them: lower it."
        )
    sizes_decoder.check_stages(recipe, decoder)
    check_bits(recipe, decoder)
    for number, stage in enumerate(recipe.stages, start=1):
        if isinstance(stage, GgufConfig | LlamaCppConfig | MatmulNbitsConfig):
            check_export(units.numbered(number, stage), stage, teacher)
    have = sum(len(row["text"].encode()) for row in parts["train"])  # a token has a byte at least
    for number, stage in enumerate(recipe.stages, start=1):
        blocks, length = sizes_decoder.calibrated(stage)
        if blocks * length > have:
            raise ShrinkError(
                f"{units.numbered(number, stage)}: calibration_blocks is {blocks} of {length} tokens but the training "
                f"text has {have} bytes: lower it, or give more text."
            )


def check_bits(recipe: Recipe, decoder: Decoder) -> None:
    """Refuse a rounding that leaves more bits than the gate lets pass, unless pruning changes them."""
    most = recipe.gate.bits_per_weight_max
    if most is None or any(stage.kind == "prune" for stage in recipe.stages):
        return
    for number, stage in enumerate(recipe.stages, start=1):
        bits = 0.0
        if isinstance(stage, RoundDecoders):
            bits = HALVES if choices.gguf_missing(stage) else bits_decoder.rounded(stage, decoder).bits
        elif isinstance(stage, LlamaCppConfig):
            bits = llama_types.bits(stage.type, decoder)
        if bits > (1 + ABOUT) * most:
            raise ShrinkError(
                f"{units.numbered(number, stage)} leaves about {bits:.2f} bits a weight but "
                f"gate.bits_per_weight_max is {most:g}, which cannot be reached: round to fewer bits, or raise it."
            )


def check_tokenizer(teacher: Path) -> None:
    """A text needs a token to begin with, or one that ends it."""
    file = gguf_of(teacher)
    if file is not None:
        keys, where = gguf_check.check(file).keys, f"tokenizer.ggml.eos_token_id of '{file.name}'"
        named = any(f"tokenizer.ggml.{one}_token_id" in keys for one in ("bos", "eos"))
    else:
        where, path = "tokenizer_config.json", teacher / "tokenizer_config.json"
        said = layout.read_json(path) if path.is_file() else {}
        own = said.get("tokenizer_class") not in GENERIC or (teacher / "special_tokens_map.json").is_file()
        special = {one: token_of(said.get(f"{one}_token")) for one in ("bos", "eos")}
        named = own or any(special.values())
        known = pieces_of(layout.read_json(teacher / "tokenizer.json"))
        if lacking := next((one for one, token in special.items() if token and token not in known), None):
            raise ShrinkError(
                f"{lacking}_token is {special[lacking]!r:.80} in tokenizer_config.json, but tokenizer.json has no such "
                "piece: use a matching pair."
            )
    if not named:
        raise ShrinkError(f"the teacher's tokenizer names neither bos_token nor eos_token: name one in {where}.")


def token_of(said: str | dict[str, Any] | None) -> str | None:
    """A special token as tokenizer_config.json names it, by itself or with what else is said of it."""
    return said["content"] if isinstance(said, dict) else said


def pieces_of(tokenizer: dict[str, Any]) -> set[str]:
    """The pieces of a tokenizer.json, and what was added to them."""
    pieces = tokenizer["model"].get("vocab", {})
    plain = pieces if isinstance(pieces, dict) else (one[0] for one in pieces)
    return {*plain, *(one["content"] for one in tokenizer.get("added_tokens") or [])}


def check_export(where: str, stage: GgufConfig | LlamaCppConfig | MatmulNbitsConfig, teacher: Path) -> None:
    """Refuse a family, a tokenizer or a setting of it that an export does not know."""
    try:
        (nbits_fit if isinstance(stage, MatmulNbitsConfig) else gguf_fit).check(teacher)
    except ShrinkError as error:
        raise ShrinkError(f"{where}: {error}") from None
