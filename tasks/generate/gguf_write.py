"""Writes a language model's folder as one GGUF file for llama.cpp: weights, sizes, tokenizer and chat template.

Rounded weights keep their integers; others are half precision, norms and biases full. Llama's queries and keys are
stored in another order of rows (its rotation pairs neighbours, transformers' pairs halves): whole rows move, nothing is
computed.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks.generate import gguf_blocks, gguf_fit, gguf_tokenizer
from tasks.generate.grids import GGUF, Rounded

Plain = Literal["f16", "f32"]


class Part(NamedTuple):
    """A weight that is to be written."""

    name: str
    shape: tuple[int, ...]
    blocks: str | None  # the grid that it is on, where GGUF has blocks of it; none: plain numbers
    rounded: bool  # whether integers are stored, which are written as what they mean where GGUF has no such blocks


def write(
    folder: Path, path: Path, plain: Plain = "f16", tell: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Write the model of a folder, one weight in memory after the other; `plain` is of matrices that are not rounded.

    Integers that GGUF has no blocks of are written as what they mean. Raises ShrinkError for a family or a tokenizer
    that is not known.
    """
    import gguf

    gguf_fit.check(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, gguf_fit.FAMILIES[config["model_type"]])
    sizes(writer, config)
    vocabulary(writer, folder, config)
    called = gguf_fit.namer(config["model_type"], config["num_hidden_layers"])
    found = parts(folder)
    for part in found:
        kind = gguf.GGMLQuantizationType[kind_of(part, plain).upper()]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(part.shape)) // block * size
        writer.add_tensor_info(called(part.name), part.shape, np.dtype(np.float32), count, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with contextlib.closing(writer):  # also where a weight is refused
        for number, part in enumerate(found, start=1):
            writer.write_tensor_data(array(folder, part, config, plain))
            tell(number, len(found))


def kind_of(part: Part, plain: Plain) -> str:
    """GGUF's type of a weight: its blocks, or plain numbers, of vectors always in full."""
    return part.blocks or (plain if len(part.shape) > 1 else "f32")


def sizes(writer: Any, config: dict[str, Any]) -> None:
    """The keys that say how large the model is."""
    import gguf

    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float((config.get("rope_parameters") or config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def vocabulary(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """The byte-level BPE tokenizer: pieces by number, their types, merges, special ones, the chat template."""
    import gguf

    said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    cut = gguf_tokenizer.name_of(said)
    pieces = dict(said["model"]["vocab"])
    special = {one["content"]: bool(one["special"]) for one in said["added_tokens"]}
    pieces |= {one["content"]: one["id"] for one in said["added_tokens"]}
    by_number = {number: piece for piece, number in pieces.items()}
    tokens = [by_number.get(number, f"[PAD{number}]") for number in range(config["vocab_size"])]
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED, None: gguf.TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[special.get(token)] for token in tokens])
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in said["model"]["merges"]])
    for key, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        if config.get(f"{key}_token_id") is not None:
            add(config[f"{key}_token_id"])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def parts(folder: Path) -> list[Part]:
    """Every stored weight by its name, read off the headers."""
    from safetensors import safe_open

    grids = folder / "grids.json"
    known = json.loads(grids.read_text(encoding="utf-8")) if grids.is_file() else {}
    with safe_open(folder / "model.safetensors", "pt") as stored:
        names = sorted({part_of(name, known) for name in stored.keys()})  # noqa: SIM118
        held = {name: f"{name}.codes" if name in known else name for name in names}
        shapes = {name: tuple(stored.get_slice(where).get_shape()) for name, where in held.items()}
    grid = {name: str(known[name]["name"]) for name in names if name in known}
    blocks = {name: one for name, one in grid.items() if one in gguf_fit.BLOCKS}
    return [Part(name, shapes[name], blocks.get(name), name in grid) for name in names]


def array(folder: Path, part: Part, config: dict[str, Any], plain: Plain) -> NDArray[Any]:
    """The numbers, or the bytes of the blocks, of one weight; rows in GGUF's order."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as stored:
        if part.blocks is None:
            whole = meant(stored, part.name) if part.rounded else stored.get_tensor(part.name).float()
            rows = reordered(whole, part.name, config).numpy()
            return halved(part.name, rows) if kind_of(part, plain) == "f16" else rows
        scale = stored.get_tensor(f"{part.name}.scale").float()
        free = GGUF[part.blocks].zero == "free"
        shift = stored.get_tensor(f"{part.name}.shift").float() if free else scale * 0
        rounded = stored.get_tensor(f"{part.name}.codes"), scale, shift
    return gguf_blocks.packed(part.blocks, Rounded(*(reordered(one, part.name, config) for one in rounded)))


def meant(stored: Any, name: str) -> Any:
    """What the stored integers of a weight stand for [outputs, inputs]."""
    codes, scale = stored.get_tensor(f"{name}.codes"), stored.get_tensor(f"{name}.scale").float()
    shifted = f"{name}.shift" in stored.keys()  # noqa: SIM118
    return Rounded(codes, scale, stored.get_tensor(f"{name}.shift").float() if shifted else scale * 0).value()


def halved(name: str, rows: NDArray[np.float32]) -> NDArray[np.float16]:
    """Numbers in half precision; ShrinkError for those beyond it."""
    if not np.abs(rows).max(initial=0) <= np.finfo(np.float16).max:
        raise ShrinkError(f"the weight '{name}' is too large for half precision: set plain of export/gguf to f32.")
    return rows.astype(np.float16)


def part_of(name: str, known: dict[str, Any]) -> str:
    """The weight that a stored tensor belongs to."""
    base = name.rpartition(".")[0]
    return base if base in known else name


def reordered(rows: Any, name: str, config: dict[str, Any]) -> Any:
    """Rows of a query's or key's weight (or its integers, or scales) in GGUF's order; others as they are."""
    if gguf_fit.FAMILIES[config["model_type"]] not in gguf_fit.PAIRED:
        return rows
    heads = config["num_attention_heads"]
    counts = {"q_proj": heads, "k_proj": config.get("num_key_value_heads", heads)}
    kind = name.split(".")[-2] if "." in name else name
    if kind not in counts:
        return rows
    apart = rows.unflatten(0, (counts[kind], 2, -1)).transpose(1, 2)
    return apart.flatten(0, 2).contiguous()


def read(path: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a GGUF file by its name, as numbers: for comparisons."""
    import gguf

    return {one.name: gguf.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(path).tensors}
