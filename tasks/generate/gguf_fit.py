"""Which models can be written as GGUF: asked of config.json and tokenizer.json alone, before any training.

What is refused here is what llama.cpp would compute otherwise, or cannot read: a file that runs and answers something
else is the worst of all exports.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.records import ShrinkError
from tasks import layout
from tasks.generate import gguf_check, gguf_tokenizer

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # model_type: GGUF's architecture
PAIRED = ("llama",)  # architectures whose rotation pairs neighbours: rows of queries and keys lie otherwise there
BLOCKS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")  # grids that GGUF has blocks of
INSTEAD = "choose another export."


def check(folder: Path) -> None:
    """Refuse a folder (of a teacher's source, or `lm`) of which no GGUF can be written; ShrinkError with the reason."""
    files = sorted(folder.glob("*.gguf"))
    if files:
        with layout.foreign(f"'{files[0].name}'"):
            check_keys(gguf_check.check(files[0]).keys, files[0].name)
        return
    with layout.foreign("the model's config.json or tokenizer.json"):
        check_family(layout.read_json(folder / "config.json"))
        gguf_tokenizer.name_of(layout.read_json(folder / "tokenizer.json"))


def check_keys(keys: dict[str, Any], file: str) -> None:
    """The same of a GGUF file's own keys: it must come back as what it was."""
    family, cut = keys.get("general.architecture"), keys.get("tokenizer.ggml.pre", "gpt-2")
    if family not in FAMILIES.values():
        raise ShrinkError(f"no GGUF is written of '{file}', a '{family}': known are {', '.join(FAMILIES)}.")
    if keys.get("tokenizer.ggml.model") != "gpt2" or cut not in gguf_tokenizer.PRETOKENIZERS:
        raise ShrinkError(
            f"no GGUF is written of '{file}': its tokenizer {keys.get('tokenizer.ggml.model')}/{cut} is none of gpt2 "
            f"with {', '.join(gguf_tokenizer.PRETOKENIZERS)}; {INSTEAD}"
        )


def check_family(config: dict[str, Any]) -> None:
    """Refuse what llama.cpp does not compute of a family."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ShrinkError(f"no GGUF is written of a '{family}': known are {', '.join(FAMILIES)}.")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    window = config.get("sliding_window") if config.get("use_sliding_window", not family.startswith("qwen")) else None
    odd = {
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        f"hidden_act {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
        f"rope_type {kind}": kind != "default",
        f"sliding_window {window}": window is not None and window < config["max_position_embeddings"],
    }
    if found := next((name for name, said in odd.items() if said), None):
        raise ShrinkError(f"no GGUF is written of this {family}: {found} is not known there; {INSTEAD}")


def bits_per_weight(path: Path) -> float:
    """Bits over all weights of a GGUF file that was looked through: all that its tensors take, scales included."""
    from gguf import GGUFReader

    tensors = GGUFReader(path).tensors
    return 8 * sum(int(one.n_bytes) for one in tensors) / sum(int(one.n_elements) for one in tensors)


def weights_by_block(path: Path) -> dict[str, int]:
    """How many weights of a GGUF file that was looked through lie in each kind of block, by GGUF's name of it."""
    from gguf import GGUFReader

    found: dict[str, int] = {}
    for one in GGUFReader(path).tensors:
        found[one.tensor_type.name] = found.get(one.tensor_type.name, 0) + int(one.n_elements)
    return dict(sorted(found.items()))


def namer(family: str, layers: int) -> Callable[[str], str]:
    """What GGUF calls a weight of a family by transformers' name; ShrinkError for one that it has no name for."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[FAMILIES[family]], layers)

    def called(weight: str) -> str:
        found = names.get_name(weight, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ShrinkError(f"GGUF has no name for the weight '{weight}': {INSTEAD}")
        return str(found)

    return called


def described(folder: Path) -> dict[str, Any]:
    """The config.json of a `gguf` folder made of an `lm` folder, but for its bits."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {"task": "generate", "context": int(config["max_position_embeddings"])}
