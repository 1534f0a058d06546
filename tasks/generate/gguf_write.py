"""Writes a language model's folder as one GGUF file for llama.cpp: weights, sizes, tokenizer and chat template.

Rounded weights keep their integers; others are half precision, norms full. Llama's queries and keys are stored in
another order of rows (its rotation pairs neighbours, transformers' pairs halves): whole rows move, nothing is computed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks.generate import gguf_blocks, gguf_tokenizer
from tasks.generate.grids import Rounded

FAMILIES = {"llama": "llama", "mistral": "llama"}  # transformers' model_type to GGUF's architecture


def write(folder: Path, path: Path) -> None:
    """Write the model of a folder; raises ShrinkError for a family or a tokenizer that is not known."""
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ShrinkError(f"no GGUF is written of a '{config.get('model_type')}': known are {', '.join(FAMILIES)}.")
    writer = gguf.GGUFWriter(path, family)
    sizes(writer, config)
    vocabulary(writer, folder, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight, kind in weights(folder, config):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ShrinkError(f"GGUF has no name for the weight '{name}': choose another export.")
        writer.add_tensor(found, weight, raw_dtype=None if kind is None else gguf.GGMLQuantizationType[kind.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def weights(folder: Path, config: dict[str, Any]) -> "Any":
    """Every stored weight in turn: name, array, and the type of its blocks (none: as the array is)."""
    from safetensors import safe_open

    grids = folder / "grids.json"
    known = json.loads(grids.read_text(encoding="utf-8")) if grids.is_file() else {}
    with safe_open(folder / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
        for name in sorted({part_of(name, known) for name in names}):
            if name in known:
                scale = stored.get_tensor(f"{name}.scale").float()
                shift = stored.get_tensor(f"{name}.shift").float() if f"{name}.shift" in names else scale * 0
                turned = Rounded(
                    *(reordered(one, name, config) for one in (stored.get_tensor(f"{name}.codes"), scale, shift))
                )
                yield name, gguf_blocks.packed(known[name]["name"], turned), known[name]["name"]
            else:
                plain = reordered(stored.get_tensor(name).float(), name, config).numpy()
                yield name, plain.astype(np.float16) if plain.ndim > 1 else plain, None


def part_of(name: str, known: dict[str, Any]) -> str:
    """The weight that a stored tensor belongs to."""
    base = name.rpartition(".")[0]
    return base if base in known else name


def reordered(rows: Any, name: str, config: dict[str, Any]) -> Any:
    """Rows of a query's or key's weight (or its integers, or scales) in GGUF's order; others as they are."""
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
