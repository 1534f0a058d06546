"""Which decoders can be written as an ONNX graph of 4-bit products: asked of config.json alone, before any work."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks import layout
from tasks.generate import families

LIMIT = 2_000_000_000  # bytes of one ONNX file, which protobuf bounds
HEADS = 16  # numbers of which GroupQueryAttention takes multiples
ROTATIONS = ("default", "linear", "llama3", "yarn")  # those of others depend on the length of the text


class Sizes(NamedTuple):
    """What the graph of a model is built by."""

    layers: int
    pieces: int
    context: int
    queries: int  # heads
    groups: int  # heads of keys and values
    head_size: int
    epsilon: float
    windows: tuple[int, ...]  # tokens that each layer looks back on; 0: all
    frequencies: NDArray[np.float64]  # [half a head], radians a token
    factor: float  # of cosines and sines
    embedding: str  # a name in the folder
    head: str  # the same name where it is tied


def check(folder: Path) -> None:
    """Refuse the source of a teacher, or an `lm` folder, of which no graph can be built; a GGUF file is a Llama's."""
    if (folder / "config.json").is_file():
        check_config(layout.read_json(folder / "config.json"))


def check_config(config: dict[str, Any]) -> None:
    """ShrinkError with the one thing that the graph does not compute."""
    family = str(config.get("model_type"))
    if reason := families.without_nbits(family) or without_heads(family, head_size(config)):
        raise ShrinkError(reason)
    rotation = rope(config)
    odd = {
        f"hidden_act {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
        f"rope_type {kind_of(rotation)}": kind_of(rotation) not in ROTATIONS,
        "a rotation of a part of each head": partial(config, rotation) != 1,
    }
    if found := next((name for name, said in odd.items() if said), None):
        raise ShrinkError(unbuilt(family, found))


def unbuilt(family: str, found: str) -> str:
    """Why a model of a known family is refused."""
    return f"export/matmul_nbits cannot build this {family}: it has {found}; choose another export."


def without_heads(family: str, size: int) -> str | None:
    """Why heads of this size cannot attend in ONNX Runtime; None where they can."""
    return unbuilt(family, f"heads of {size} numbers, no multiple of {HEADS}") if size % HEADS else None


def too_large(held: float) -> str | None:
    """Why so many bytes do not fit into one file; None where they do."""
    if held <= LIMIT:
        return None
    return (
        f"the graph of export/matmul_nbits would have {held / 1e9:.1f} GB but one ONNX file holds less than 2: choose "
        "export/gguf."
    )


def rope(config: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says of the rotation."""
    found: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found


def kind_of(rotation: dict[str, Any]) -> str:
    """Its type."""
    return str(rotation.get("rope_type", rotation.get("type", "default")))


def partial(config: dict[str, Any], rotation: dict[str, Any]) -> float:
    """The part of each head that is turned."""
    return float(rotation.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1)


def head_size(config: dict[str, Any]) -> int:
    """Numbers of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def sizes(folder: Path, tied: bool) -> Sizes:
    """The sizes of a folder's model; `tied`: it has no head of its own."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    said = config.to_dict()
    frequencies, factor = turned(config, said)
    context, layers = int(said["max_position_embeddings"]), int(said["num_hidden_layers"])
    embedding, head = families.TABLES[said["model_type"]]
    return Sizes(
        layers, int(said["vocab_size"]), context,
        int(said["num_attention_heads"]), int(said.get("num_key_value_heads") or said["num_attention_heads"]),
        head_size(said), float(said["rms_norm_eps"]), windows(said, context, layers),
        frequencies, factor, embedding, embedding if tied else head,
    )  # fmt: skip


def turned(config: Any, said: dict[str, Any]) -> tuple[NDArray[np.float64], float]:
    """Frequencies [half a head] of the rotation, and the factor of its cosines and sines, as transformers has them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind, size = kind_of(rope(said)), head_size(said)
    if kind != "default":
        found, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
        return found.double().numpy(), float(factor)
    theta = float((rope(said) or said)["rope_theta"])
    powers = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return (1.0 / np.power(theta, powers, dtype=np.float32)).astype(np.float64), 1.0


def windows(said: dict[str, Any], context: int, layers: int) -> tuple[int, ...]:
    """Tokens that each layer looks back on, itself among them; 0 where that is all."""
    window = said.get("sliding_window") or 0
    kinds = said.get("layer_types") or ["sliding_attention" if window else "full_attention"] * layers
    return tuple(int(window) if kind == "sliding_attention" and window < context else 0 for kind in kinds)
