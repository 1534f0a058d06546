"""What lies in a model folder, read without torch: config.json, the header of model.safetensors, tokenizer.json.

Everything that would make a stage fail later for a reason that the files already show is refused here, in well under
a second: architectures that no stage knows, weights and config that do not belong together, another tokenizer.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError
from tasks import architectures, pieces, weights
from tasks.generate import families

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
FREE = {"position_embedding_type": "absolute", "attention_bias": False, "mlp_bias": False, "norm_bias": False} | {
    **{"conv_kernel_size": 0, "num_hidden_groups": 1, "inner_group_num": 1, "type_vocab_size": 0, "pad_token_id": 0},
    **{"trigram_input": True, "use_bottleneck": True, "use_bottleneck_attention": False},
    "key_query_shared_bottleneck": True,
}  # what a file that leaves the field out means
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
    architecture: str = "bert"
    width: int = 0
    pad: int = 0


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
        layers=architectures.value(config, "num_hidden_layers"),
        columns=config.get("embedding_rank") or architectures.letters(config)["e"],
        factorised=bool(config.get("embedding_rank")),
        ffn=architectures.value(config, "intermediate_size"),
        heads=config.get("kept_heads") or architectures.value(config, "num_attention_heads"),
        head_size=architectures.letters(config)["s"],
        positions=config["max_position_embeddings"] - architectures.offset(config),
        tokenizer=pieces.check(folder, config),
        architecture=config["model_type"],
        width=architectures.value(config, "hidden_size"),
        pad=architectures.pad_of(config),
    )


def check_architecture(config: dict[str, Any]) -> None:
    """ShrinkError for an architecture that no stage knows, or a config without its sizes."""
    kind = config.get("model_type")
    if (why := architectures.STRANGERS.get(str(kind))) is not None:
        raise ShrinkError(f"model_type is {kind!r}, which is not supported ({why}): choose a BERT checkpoint.")
    if kind not in architectures.known():
        names = ", ".join(architectures.known())
        writes = ", or task generate, for which it is" if kind in families.ANATOMIES else ""
        raise ShrinkError(
            f"model_type is {kind!r} but only these encoders are supported: {names}; choose one of them{writes}."
        )
    for field in (*SIZES, "max_position_embeddings"):
        size = architectures.value(config, field)
        if type(size) is not int or size < 1:
            raise ShrinkError(
                f"config.json has {architectures.named(config, field)} = {size!r:.60} but needs a whole number "
                f"above 0: {OWN}"
            )
    width, heads = (architectures.value(config, field) for field in ("hidden_size", "num_attention_heads"))
    if width % heads:
        raise ShrinkError(
            f"config.json has {architectures.named(config, 'hidden_size')} = {width}, which its "
            f"{architectures.named(config, 'num_attention_heads')} = {heads} does not divide: {OWN}"
        )
    check_details(config)
    for field, needed in architectures.NEEDED.get(str(kind), {}).items():
        found = FREE.get(field) if config.get(field) is None else config[field]
        if found != needed:
            raise ShrinkError(
                f"{field} is {found!r:.60} but only {needed!r} is supported: choose another {kind} checkpoint."
            )


def check_details(config: dict[str, Any]) -> None:
    """ShrinkError for a field beside the sizes that the encoder could not be built with, or would not be this one."""
    rows, width = config["vocab_size"], architectures.letters(config)["e"]
    typed = config.get("model_type") != "deberta-v2"  # which may do without types
    wanted: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "hidden_act": (f"one of: {', '.join(ACTIVATIONS)}", lambda value: value in ACTIVATIONS),
        "hidden_dropout_prob": ("a number from 0 to below 1", lambda value: number(value) and 0 <= value < 1),
        "attention_probs_dropout_prob": ("a number from 0 to below 1", lambda value: number(value) and 0 <= value < 1),
        "layer_norm_eps": ("a decimal above 0", lambda value: type(value) is float and 0 < value < 1),
        "type_vocab_size": ("a whole number above 0", lambda value: type(value) is int and value >= typed),
        "pad_token_id": (f"below {rows}", lambda value: value is None or (type(value) is int and 0 <= value < rows)),
        "kept_heads": ("a whole number", lambda value: value is None or (type(value) is int and value >= 0)),
        "embedding_rank": (
            f"below {width}",
            lambda value: value is None or (type(value) is int and 0 < value < width),
        ),
        "is_decoder": ("false, an encoder", lambda value: value is False),
        "add_cross_attention": ("false, an encoder", lambda value: value is False),
    }
    for field, (what, fits) in wanted.items():
        own = architectures.named(config, field)
        if own in config and not fits(config[own]):
            raise ShrinkError(f"config.json has {own} = {config[own]!r:.60} but needs {what}: {OWN}")


def number(value: Any) -> bool:
    """Whether a JSON value is a finite number (true and false are none)."""
    return type(value) in (int, float) and math.isfinite(value)


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """ShrinkError when model.safetensors is missing, cut off, or of other sizes than config.json says."""
    _, tensors = weights.header(folder / "model.safetensors")
    shapes = {plain_name(name, config): entry["shape"] for name, entry in tensors.items()}
    field, layers = architectures.named(config, "num_hidden_layers"), architectures.value(config, "num_hidden_layers")
    if layers > len(shapes):
        raise ShrinkError(
            f"config.json has {field} = {layers} but model.safetensors only {len(shapes)} weights: "
            "use a matching pair of files."
        )
    for name, shape in architectures.wanted_shapes(config).items():
        if shapes.get(name) != shape:
            raise ShrinkError(
                f"model.safetensors lacks {name} in the size {shape} that config.json says (it has "
                f"{shapes.get(name, 'none')}): use a matching pair of files."
            )


def check_numbers(folder: Path, config: dict[str, Any]) -> None:
    """ShrinkError when a weight of the encoder holds something that is no finite number."""
    path, wanted = folder / "model.safetensors", architectures.wanted_shapes(config)
    weights.check_numbers(path, [name for name in weights.header(path)[1] if plain_name(name, config) in wanted])


def plain_name(name: str, config: dict[str, Any]) -> str:
    """A weight's name as the bare encoder has it: without the prefix, LayerNorm's gamma and beta of old checkpoints."""
    name = name.removeprefix(architectures.PREFIXES[config["model_type"]])
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


@contextlib.contextmanager
def foreign(what: str) -> Iterator[None]:
    """Say in one sentence that somebody's file has another form than its format: ShrinkError in a library's place."""
    try:
        yield
    except ShrinkError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise ShrinkError(f"{what} cannot be read ({reason}): take a fresh copy of the model.") from error


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
