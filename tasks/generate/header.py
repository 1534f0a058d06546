"""What a decoder is before it is loaded: sizes from a GGUF file's header, or from config.json and the weights' header.

No torch: preflight and plan ask here.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError
from tasks import layout, weights
from tasks.generate import families, gguf_check, possible, shapes
from tasks.generate.adopt import gguf_of

GGUF_TABLES = ("token_embd.weight", "output.weight")
FOLDER_TABLES = ("embed_tokens", "lm_head", "wte", "embed_out")


class Decoder(BaseModel):
    """The sizes of a decoder."""

    model_config = STRICT
    family: str
    layers: int
    context: int
    pieces: int  # rows of the embedding
    parameters: int
    tables: int  # weights of embedding and head
    tokenizer_bytes: int  # about
    width: int
    neurons: int  # of a layer's feed-forward part
    queries: int  # heads of attention
    groups: int  # heads of keys and values
    head: int  # the size of a head
    tokenizer: str  # its kind, as tokenizer.json says it
    least: float  # bits a weight with all that can be rounded on the smallest grid; 0: not known


def look(source: Path) -> Decoder:
    """The decoder of a source folder; ShrinkError when the files cannot be one."""
    file = gguf_of(source)
    with layout.foreign(f"'{file.name}'" if file is not None else "the model's config.json or tokenizer.json"):
        return of_gguf(file) if file is not None else of_folder(source)


def of_gguf(file: Path) -> Decoder:
    """Sizes from a checked GGUF header."""
    seen = gguf_check.check(file)
    family = str(seen.keys.get("general.architecture", ""))
    if "bert" in family or family.startswith("t5"):
        raise ShrinkError(
            f"'{file.name}' holds a '{family}', which has an encoder, and task generate takes a decoder alone: give a "
            "language model's file."
        )
    counts = {name: math.prod(shape) for name, shape in seen.tensors.items()}

    def said(field: str, default: int | None = None) -> int:
        return whole(seen.keys.get(f"{family}.{field}", default), field, file)

    if (table := seen.tensors.get("token_embd.weight")) is None:
        raise ShrinkError(f"'{file.name}' has no token_embd.weight: it is no language model, give another file.")
    width, queries = said("embedding_length"), said("attention.head_count")
    found = Decoder(
        family=family,
        layers=said("block_count"),
        context=said("context_length"),
        pieces=table[-1],
        parameters=sum(counts.values()),
        tables=sum(counts.get(name, 0) for name in GGUF_TABLES),
        tokenizer_bytes=40 * table[-1],
        width=width,
        neurons=said("feed_forward_length"),
        queries=queries,
        groups=said("attention.head_count_kv", queries),
        head=said("attention.key_length", width // queries),
        least=least({name: (shape, True) for name, shape in seen.tensors.items()}),
        tokenizer="BPE" if seen.keys.get("tokenizer.ggml.model") == "gpt2" else "another",
    )
    last = f"blk.{found.layers - 1}."
    expected = {"token_embd.weight": (width, table[-1]), f"{last}ffn_down.weight": (found.neurons, width)}
    expected |= {f"{last}attn_output.weight": (queries * found.head, width)}
    agree(expected, seen.tensors, file.name)
    names = (f"{family}.attention.head_count", f"{family}.attention.head_count_kv")
    possible.check_heads(queries, found.groups, f"'{file.name}'", names)
    theta = f"{family}.rope.freq_base"
    possible.check_theta(seen.keys.get(theta, 1.0), f"'{file.name}'", theta)
    if family == "llama":
        agree(shapes.of_gguf(found), seen.tensors, file.name)
    return found


def whole(value: Any, field: str, file: Path) -> int:
    """A count above 0 that a header must have."""
    if isinstance(value, int) and value > 0:
        return value
    raise ShrinkError(f"'{file.name}' says {value!r} for {field}: it is no language model that is known.")


def of_folder(folder: Path) -> Decoder:
    """Sizes from config.json and the header of model.safetensors."""
    config = layout.read_json(folder / "config.json")
    possible.check_kind(config)
    _, tensors = weights.header(folder / "model.safetensors")
    counts = {name: math.prod(entry["shape"]) for name, entry in tensors.items()}
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ShrinkError("tokenizer.json is missing in the model folder: save the tokenizer beside the model.")
    said = layout.read_json(tokenizer)
    if (folder / "tokenizer_config.json").is_file():
        layout.read_json(folder / "tokenizer_config.json")
    tables = sum(count for name, count in counts.items() if any(part in name for part in FOLDER_TABLES))
    width = counted(config, "hidden_size", "n_embd")
    queries = counted(config, "num_attention_heads", "n_head")
    found = Decoder(
        family=str(config.get("model_type")),
        layers=counted(config, "num_hidden_layers", "n_layer"),
        context=counted(config, "max_position_embeddings", "n_positions"),
        pieces=counted(config, "vocab_size"),
        parameters=sum(counts.values()),
        tables=tables,
        tokenizer_bytes=tokenizer.stat().st_size,
        width=width,
        neurons=counted(config, "intermediate_size", "ffn_dim", "n_inner", default=4 * width),
        queries=queries,
        groups=counted(config, "num_key_value_heads", default=queries),
        head=counted(config, "head_dim", default=width // queries),
        least=least({name: (entry["shape"], roundable(name)) for name, entry in tensors.items()}),
        tokenizer=str(said["model"].get("type")) if isinstance(said.get("model"), dict) else "none",
    )
    if (where := families.ANATOMIES.get(found.family)) is not None:
        there = {name: tuple(sorted(entry["shape"])) for name, entry in tensors.items()}  # GPT-2's lie the other way
        name = f"{where.layers}.{found.layers - 1}.{where.out}.weight"
        tables_of = {f"{families.TABLES[found.family][0]}.weight": tuple(sorted((found.pieces, width)))}
        agree(tables_of | {name: tuple(sorted((found.neurons, width)))}, there, "model.safetensors")
    possible.check_numbers(config, found)
    possible.check_weights(tensors, config, found)
    possible.check_vocabulary(said, found)
    return found


def agree(expected: Mapping[str, Sequence[int]], there: Mapping[str, Sequence[int]], file: str) -> None:
    """Refuse sizes that are told but not there, before anything is allocated for them."""
    for name, shape in expected.items():
        if there.get(name) is None or tuple(there[name]) != tuple(shape):
            has = "no such weight" if there.get(name) is None else f"{list(there[name])}"
            raise ShrinkError(
                f"'{file}' must have {name} in the size {list(shape)} by what is said of the model, but it has {has}: "
                "use a matching pair."
            )


def roundable(name: str) -> bool:
    """Whether a weight of a folder, if it is a matrix, can be rounded: embedding, head, and what lies in layers."""
    return any(part in name for part in (".layers.", ".h.", *FOLDER_TABLES))


def least(weights: Mapping[str, tuple[Sequence[int], bool]]) -> float:
    """Bits a weight of shapes, and whether each may be rounded: 4.5 of such matrices, 16 of others, 32 of vectors."""
    bits = total = 0.0
    for shape, may in weights.values():
        count = math.prod(shape)
        bits += count * (32.0 if len(shape) < 2 else 4.5 if may else 16.0)
        total += count
    return bits / max(1.0, total)


def counted(config: dict[str, Any], *fields: str, default: int | None = None) -> int:
    """A count above 0 that config.json must have under one of these names, where there is no default."""
    value = next((config[field] for field in fields if config.get(field) is not None), default)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ShrinkError(f"config.json has {fields[0]} = {value!r:.60} but needs a whole number: give a decoder's own.")
