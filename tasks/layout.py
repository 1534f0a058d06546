"""What lies in a model folder, read without torch: config.json, the header of model.safetensors, tokenizer.json.

Everything that would make a stage fail later for a reason that the files already show is refused here, in well under
a second: architectures that no stage knows, weights and config that do not belong together, another tokenizer.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError
from tasks import pieces, weights

ARCHITECTURES = ("bert",)
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
OWN = "give the model's own config.json."
ACTIVATIONS = (  # those of transformers that work alone
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2"),
    *("relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh"),
)


class Layout(BaseModel):
    """The sizes of an encoder, its tokenizer's kind (WordPiece, BPE, ...) and the folder that holds it."""

    model_config = STRICT
    folder: Path
    layers: int
    columns: int  # of the word embedding's table
    factorised: bool = False  # whether a product widens its rows
    ffn: int
    heads: int
    head_size: int
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
    check_numbers(folder, config)
    return Layout(
        folder=folder,
        layers=config["num_hidden_layers"],
        columns=config.get("embedding_rank") or config["hidden_size"],
        factorised=bool(config.get("embedding_rank")),
        ffn=config["intermediate_size"],
        heads=config.get("kept_heads") or config["num_attention_heads"],
        head_size=config["hidden_size"] // config["num_attention_heads"],
        positions=config["max_position_embeddings"],
        tokenizer=pieces.check(folder, config),
    )


def check_architecture(config: dict[str, Any]) -> None:
    """ShrinkError for an architecture that no stage knows, or a config without its sizes."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(repr(name) for name in ARCHITECTURES)
        raise ShrinkError(f"model_type is {kind!r} but only {known} encoders are supported: choose a BERT checkpoint.")
    for field in (*SIZES, "max_position_embeddings"):
        if type(config.get(field)) is not int or config[field] < 1:
            raise ShrinkError(
                f"config.json has {field} = {config.get(field)!r:.60} but needs a whole number above 0: {OWN}"
            )
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ShrinkError(
            f"config.json has hidden_size = {config['hidden_size']}, which its num_attention_heads = "
            f"{config['num_attention_heads']} does not divide: {OWN}"
        )
    check_details(config)
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ShrinkError(
            f"position_embedding_type is {positions!r} but only 'absolute' is supported: choose another BERT."
        )


def check_details(config: dict[str, Any]) -> None:
    """ShrinkError for a field beside the sizes that the encoder could not be built with, or would not be this one."""
    heads, rows, width = config["num_attention_heads"], config["vocab_size"], config["hidden_size"]
    wanted: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "hidden_act": (f"one of: {', '.join(ACTIVATIONS)}", lambda value: value in ACTIVATIONS),
        "hidden_dropout_prob": ("a number from 0 to below 1", lambda value: number(value) and 0 <= value < 1),
        "attention_probs_dropout_prob": ("a number from 0 to below 1", lambda value: number(value) and 0 <= value < 1),
        "layer_norm_eps": ("a decimal above 0", lambda value: type(value) is float and 0 < value < 1),
        "type_vocab_size": ("a whole number above 0", lambda value: type(value) is int and value > 0),
        "pad_token_id": (f"below {rows}", lambda value: value is None or (type(value) is int and 0 <= value < rows)),
        "kept_heads": (f"at most {heads}", lambda value: value is None or (type(value) is int and 0 <= value <= heads)),
        "embedding_rank": (
            f"below {width}",
            lambda value: value is None or (type(value) is int and 0 < value < width),
        ),
        "is_decoder": ("false, an encoder", lambda value: value is False),
        "add_cross_attention": ("false, an encoder", lambda value: value is False),
    }
    for field, (what, fits) in wanted.items():
        if field in config and not fits(config[field]):
            raise ShrinkError(f"config.json has {field} = {config[field]!r:.60} but needs {what}: {OWN}")


def number(value: Any) -> bool:
    """Whether a JSON value is a finite number (true and false are none)."""
    return type(value) in (int, float) and math.isfinite(value)


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """ShrinkError when model.safetensors is missing, cut off, or of other sizes than config.json says."""
    _, tensors = weights.header(folder / "model.safetensors")
    shapes = {plain_name(name): entry["shape"] for name, entry in tensors.items()}
    if config["num_hidden_layers"] > len(shapes):
        raise ShrinkError(
            f"config.json has num_hidden_layers = {config['num_hidden_layers']} but model.safetensors only "
            f"{len(shapes)} weights: use a matching pair of files."
        )
    for name, shape in wanted_shapes(config).items():
        if shapes.get(name) != shape:
            raise ShrinkError(
                f"model.safetensors lacks {name} in the size {shape} that config.json says (it has "
                f"{shapes.get(name, 'none')}): use a matching pair of files."
            )


def check_numbers(folder: Path, config: dict[str, Any]) -> None:
    """ShrinkError when a weight of the encoder holds something that is no finite number."""
    path, wanted = folder / "model.safetensors", wanted_shapes(config)
    weights.check_numbers(path, [name for name in weights.header(path)[1] if plain_name(name) in wanted])


def plain_name(name: str) -> str:
    """A weight's name as the bare encoder has it: without the prefix, LayerNorm's gamma and beta of old checkpoints."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def wanted_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """{weight: shape} of an encoder of these sizes, fewer heads than the hidden size has room for included."""
    width, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    inner = (config.get("kept_heads") or heads) * (width // heads)
    table, rank = "embeddings.word_embeddings", config.get("embedding_rank")
    factors = {f"{table}.rows.weight": [config["vocab_size"], rank], f"{table}.expand.weight": [width, rank]}
    wanted = {
        **(factors if rank else {f"{table}.weight": [config["vocab_size"], width]}),
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder; ShrinkError when it is missing or none."""
    if not path.is_file():
        raise ShrinkError(f"{path.name} is missing in the model folder: name a folder with a saved model.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ShrinkError(f"{path.name} in the model folder is no JSON object: save the model again.")
    return value
