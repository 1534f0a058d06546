"""Language models in folders: load one, write one, whose weights may be stored as rounded integers.

An artifact has config.json, tokenizer.json and tokenizer_config.json (and chat_template.jinja) as transformers writes
them, model.safetensors and, where weights are rounded, grids.json: {weight: its grid}. Of such a weight W the file
holds W.codes (int8), W.scale and, unless the grid is symmetric, W.shift.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import layout
from tasks.generate.grids import Grid, Rounded

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def load(directory: Path) -> Any:
    """The language model of a folder in float32 and eval mode; rounded weights as the numbers that they stand for."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    layout.read_json(directory / "config.json")
    try:
        config = AutoConfig.from_pretrained(directory)
        with no_init_weights():  # all of them are read, or refused
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # of several kinds, with the field in the text
        said = " ".join(str(error).split())[:200]
        raise ShrinkError(f"config.json will not do ({said}): give a language model's own config.json.") from None
    read(model, directory / "model.safetensors")
    model.tie_weights()
    return model.float().eval()


def read(model: Any, path: Path) -> None:
    """Put a file's weights into a model one by one: a second copy of all of them need not fit into memory."""
    from transformers.pytorch_utils import Conv1D

    turned = {f"{name}.weight" for name, one in model.named_modules() if isinstance(one, Conv1D)}
    with safe_open(path, "pt") as stored:
        names = set(stored.keys())
    for name, value in model.state_dict().items():
        held = [one for one in (name, *(f"{name}.{part}" for part in Rounded._fields)) if one in names]
        if not held and model.config.tie_word_embeddings and "head" in name:
            continue
        with safe_open(path, "pt") as stored:  # opened anew: pages that were read count as ours until it is closed
            found = expanded({one: stored.get_tensor(one) for one in held}).get(name)
            if found is not None and f"{name}.codes" in held and name in turned:
                found = found.T
            if found is None or found.shape != value.shape:
                raise ShrinkError(
                    f"model.safetensors lacks {name} in the size that config.json says: use a matching pair."
                )
            value.copy_(found)


def load_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of a folder, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def expanded(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name, rounded ones as the numbers that they stand for."""
    found = {}
    for name, value in stored.items():
        base, _, part = name.rpartition(".")
        if part == "codes":
            scale = stored[f"{base}.scale"].float()
            shift = stored[f"{base}.shift"].float() if f"{base}.shift" in stored else torch.zeros_like(scale)
            found[base] = Rounded(value, scale, shift).value()
        elif part not in {"scale", "shift"} or f"{base}.codes" not in stored:
            found[name] = value.float()
    return found


def integers(directory: Path) -> tuple[dict[str, Rounded], dict[str, Grid]]:
    """The rounded weights of a folder and their grids, by name; none where nothing is rounded."""
    if not (directory / "grids.json").is_file():
        return {}, {}
    told = json.loads((directory / "grids.json").read_text(encoding="utf-8"))
    known = {name: Grid.model_validate(one) for name, one in told.items()}
    rounded = {}
    with safe_open(directory / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
        for name in known:
            scale = stored.get_tensor(f"{name}.scale").float()
            shift = stored.get_tensor(f"{name}.shift").float() if f"{name}.shift" in names else torch.zeros_like(scale)
            rounded[name] = Rounded(stored.get_tensor(f"{name}.codes"), scale, shift)
    return rounded, known


def save(directory: Path, model: Any, beside: Path, rounded: dict[str, Rounded], grids: dict[str, Grid]) -> None:
    """Write a language model; `rounded` weights as integers, the tokenizer's files from the folder `beside`.

    The bytes depend on the weights, the grids and those files alone. A head that is tied to the embedding is not
    written twice.
    """
    plain = {name: value for name, value in own_weights(model).items() if name not in rounded}
    write(directory, model.config, beside, plain, rounded, grids)


def write(
    directory: Path,
    config: Any,
    beside: Path,
    plain: dict[str, Tensor],
    rounded: dict[str, Rounded],
    grids: dict[str, Grid],
) -> None:
    """Write a language model of a config that is in parts: weights that stay as they are, and rounded ones."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        if (beside / name).is_file():
            (directory / name).write_bytes((beside / name).read_bytes())
    config.save_pretrained(directory)
    tensors = {name: value.detach().contiguous() for name, value in plain.items()}
    for name, one in rounded.items():
        tensors |= {f"{name}.codes": one.codes.contiguous(), f"{name}.scale": one.scale.half().contiguous()}
        if grids[name].zero in {"free", "integer"}:
            shift = one.shift if grids[name].zero == "integer" else one.shift.half()
            tensors[f"{name}.shift"] = shift.contiguous()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if rounded:
        told = {name: grids[name].model_dump() for name in sorted(rounded)}
        (directory / "grids.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights by name, each tensor once: a tied head is its embedding."""
    seen, found = set[int](), {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            found[name] = value
    return found


def bits_per_weight(model: nn.Module, grids: dict[str, Grid]) -> float:
    """Bits over all weights, each counted once: a grid's with its scales, else 16 of a matrix and 32 of a vector.

    That is what a GGUF file of them takes; the folder itself keeps a byte for each integer.
    """
    weights = own_weights(model)
    return sum(bits_of(name, value, grids) for name, value in weights.items()) / sum(map(torch.numel, weights.values()))


def bits_of(name: str, value: Tensor, grids: dict[str, Grid]) -> float:
    """Bits that one weight takes."""
    return value.numel() * (grids[name].bits if name in grids else 16.0 if value.ndim > 1 else 32.0)
