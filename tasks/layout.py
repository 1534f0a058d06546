"""What lies in a model folder, read without torch: config.json, the header of model.safetensors, tokenizer.json.

Everything that would make a stage fail later for a reason that the files already show is refused here, in well under
a second: architectures that no stage knows, weights and config that do not belong together, another tokenizer.
"""

import json
import struct
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError

ARCHITECTURES = ("bert",)
SPARE_ROWS = 1023  # an embedding may be padded to a round number of rows; more than that is another tokenizer
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class Layout(BaseModel):
    """The sizes of an encoder, its tokenizer's kind (WordPiece, BPE, ...) and the folder that holds it."""

    model_config = STRICT
    folder: Path
    layers: int
    ffn: int
    heads: int
    positions: int
    tokenizer: str


def find_model(directory: Path) -> Path:
    """The one folder at or below `directory` that holds a config.json with a model_type; ShrinkError otherwise."""
    found = [path for path in sorted(directory.rglob("config.json")) if "model_type" in read_json(path)]
    if directory / "config.json" in found:
        return directory
    if len(found) != 1:
        names = ", ".join(path.parent.relative_to(directory).as_posix() for path in found) or "none"
        raise ShrinkError(
            f"The model folder must hold one config.json with model_type, found {names}: name the folder."
        )
    return found[0].parent


def read(directory: Path) -> Layout:
    """The layout of the model at or below a directory; ShrinkError when no stage could work with it."""
    folder = find_model(directory)
    config = read_json(folder / "config.json")
    check_architecture(config)
    check_weights(folder, config)
    return Layout(
        folder=folder,
        layers=config["num_hidden_layers"],
        ffn=config["intermediate_size"],
        heads=config.get("kept_heads") or config["num_attention_heads"],
        positions=config["max_position_embeddings"],
        tokenizer=check_tokenizer(folder, config),
    )


def check_architecture(config: dict[str, Any]) -> None:
    """ShrinkError for an architecture that no stage knows, or a config without its sizes."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(repr(name) for name in ARCHITECTURES)
        raise ShrinkError(f"model_type is {kind!r} but only {known} encoders are supported: choose a BERT checkpoint.")
    for field in (*SIZES, "max_position_embeddings"):
        if not isinstance(config.get(field), int) or config[field] < 1:
            raise ShrinkError(f"config.json has {field} = {config.get(field)!r}: give the model's own config.json.")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ShrinkError(
            f"config.json has hidden_size = {config['hidden_size']}, which its num_attention_heads = "
            f"{config['num_attention_heads']} does not divide: give the model's own config.json."
        )
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ShrinkError(
            f"position_embedding_type is {positions!r} but only 'absolute' is supported: choose another BERT."
        )


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """ShrinkError when model.safetensors is missing, cut off, or of other sizes than config.json says."""
    shapes = safetensors_shapes(folder / "model.safetensors")
    shapes = {plain_name(name): shape for name, shape in shapes.items()}
    for name, shape in wanted_shapes(config).items():
        if shapes.get(name) != shape:
            raise ShrinkError(
                f"model.safetensors lacks {name} in the size {shape} that config.json says (it has "
                f"{shapes.get(name, 'none')}): use a matching pair of files."
            )


def plain_name(name: str) -> str:
    """A weight's name as the bare encoder has it: without the prefix, LayerNorm's gamma and beta of old checkpoints."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def wanted_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """{weight: shape} of an encoder of these sizes, fewer heads than the hidden size has room for included."""
    width, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    inner = (config.get("kept_heads") or heads) * (width // heads)
    wanted = {
        "embeddings.word_embeddings.weight": [config["vocab_size"], width],
        "embeddings.position_embeddings.weight": [config["max_position_embeddings"], width],
        "embeddings.token_type_embeddings.weight": [config.get("type_vocab_size", 2), width],
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        dense = {f"attention.self.{name}": [inner, width] for name in ("query", "key", "value")}
        dense |= {"attention.output.dense": [width, inner]}
        dense |= {"intermediate.dense": [ffn, width], "output.dense": [width, ffn]}
        for name, shape in dense.items():
            wanted |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    return wanted | {f"{norm}.{part}": [width] for norm in norms for part in ("weight", "bias")}


def safetensors_shapes(path: Path) -> dict[str, list[int]]:
    """{tensor: shape} from the header of a safetensors file; ShrinkError when it is missing or damaged."""
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.bin")) + sorted(
            other.name for other in path.parent.glob("*.safetensors.index.json")
        )
        found = f" ({others[0]} is there)" if others else ""
        raise ShrinkError(
            f"{path.name} is missing in the model folder{found}: "
            "save the weights as one safetensors file, as model.save_pretrained(folder) does."
        )
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(min(length, size)))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        shapes = {name: list(entry["shape"]) for name, entry in tensors.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise ShrinkError(f"{path.name} is no safetensors file: copy or convert the weights again.") from None
    if end != size:
        raise ShrinkError(f"{path.name} has {size} bytes but its header says {end}: copy it again.")
    return shapes


def check_tokenizer(folder: Path, config: dict[str, Any]) -> str:
    """The kind of tokenizer.json; ShrinkError when it is missing or cannot be the one this model was trained with."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ShrinkError("tokenizer.json is missing in the model folder: save the fast tokenizer beside the weights.")
    rows = config["vocab_size"]
    try:
        description = read_json(path)
        model, added = description["model"], description.get("added_tokens") or []
        pieces = model["vocab"]
        numbers = list(pieces.values()) if isinstance(pieces, dict) else list(range(len(pieces)))
        count = max([*numbers, *(token["id"] for token in added)], default=-1) + 1
        pads = [token["id"] for token in added if token["content"] == "[PAD]"]
        kind = str(model.get("type"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ShrinkError(
            "tokenizer.json is no tokenizer of the tokenizers library: save the fast one again."
        ) from None
    if not rows - SPARE_ROWS <= count <= rows:
        raise ShrinkError(
            f"tokenizer.json has {count} pieces but the model's vocab_size is {rows}: "
            "use the tokenizer that was saved with this model."
        )
    pad = config.get("pad_token_id") or 0
    if pads and pads[0] != pad:
        raise ShrinkError(
            f"tokenizer.json numbers [PAD] {pads[0]} but the model's pad_token_id is {pad}: "
            "use the tokenizer that was saved with this model."
        )
    return kind


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder; ShrinkError when it is missing or none."""
    if not path.is_file():
        raise ShrinkError(f"{path.name} is missing in the model folder: name a folder with a saved model.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ShrinkError(f"{path.name} in the model folder is no JSON object: save the model again.")
    return value
