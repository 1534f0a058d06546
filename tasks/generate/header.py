"""What a decoder is before it is loaded: sizes from a GGUF file's header, or from config.json and the weights' header.

No torch: preflight and plan ask here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError
from tasks import layout, weights
from tasks.generate import gguf_check
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
    widths: tuple[int, ...]  # inputs of the layers' linears, each once, rising


def look(source: Path) -> Decoder:
    """The decoder of a source folder; ShrinkError when the files cannot be one."""
    file = gguf_of(source)
    return of_gguf(file) if file is not None else of_folder(source)


def of_gguf(file: Path) -> Decoder:
    """Sizes from a checked GGUF header."""
    seen = gguf_check.check(file)
    family = str(seen.keys.get("general.architecture", ""))
    shapes = {name: math.prod(shape) for name, shape in seen.tensors.items()}
    layers, context = (
        whole(seen.keys.get(f"{family}.{field}"), field, file) for field in ("block_count", "context_length")
    )
    if (table := seen.tensors.get("token_embd.weight")) is None:
        raise ShrinkError(f"'{file.name}' has no token_embd.weight: it is no language model, give another file.")
    return Decoder(
        family=family,
        layers=layers,
        context=context,
        pieces=table[-1],
        parameters=sum(shapes.values()),
        tables=sum(shapes.get(name, 0) for name in GGUF_TABLES),
        tokenizer_bytes=40 * table[-1],
        widths=widths({name: shape for name, shape in seen.tensors.items() if name.startswith("blk.")}, 0),
    )


def whole(value: Any, field: str, file: Path) -> int:
    """A count above 0 that a header must have."""
    if isinstance(value, int) and value > 0:
        return value
    raise ShrinkError(f"'{file.name}' says {value!r} for {field}: it is no language model that is known.")


def of_folder(folder: Path) -> Decoder:
    """Sizes from config.json and the header of model.safetensors."""
    config = layout.read_json(folder / "config.json")
    _, tensors = weights.header(folder / "model.safetensors")
    counts = {name: math.prod(entry["shape"]) for name, entry in tensors.items()}
    rows = counted(config, "vocab_size")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ShrinkError("tokenizer.json is missing in the model folder: save the tokenizer beside the model.")
    json.loads(tokenizer.read_text(encoding="utf-8"))
    tables = sum(count for name, count in counts.items() if any(part in name for part in FOLDER_TABLES))
    return Decoder(
        family=str(config.get("model_type")),
        layers=counted(config, "num_hidden_layers", "n_layer"),
        context=counted(config, "max_position_embeddings", "n_positions"),
        pieces=rows,
        parameters=sum(counts.values()),
        tables=tables,
        tokenizer_bytes=tokenizer.stat().st_size,
        widths=widths({name: entry["shape"] for name, entry in tensors.items() if ".layers." in name}, -1),
    )


def widths(shapes: Mapping[str, Sequence[int]], place: int) -> tuple[int, ...]:
    """The inputs of matrices; GGUF names them first, transformers (but for GPT-2, which is left out) last."""
    return tuple(sorted({shape[place] for shape in shapes.values() if len(shape) == 2}))


def counted(config: dict[str, Any], *fields: str) -> int:
    """A count above 0 that config.json must have under one of these names."""
    value = next((config[field] for field in fields if field in config), None)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ShrinkError(f"config.json has {fields[0]} = {value!r:.60} but needs a whole number: give a decoder's own.")
