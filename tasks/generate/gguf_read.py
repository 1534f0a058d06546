"""Reads a GGUF file into transformers: exactly the numbers that its blocks stand for, and llama.cpp's ids of a text.

The other way round of tasks/generate/gguf_write.py, for the families that it writes. A file is looked through before
anything is allocated for it.
"""

from pathlib import Path
from typing import Any

from registry.records import ShrinkError
from tasks.generate import gguf_check, gguf_fit, gguf_tokenizer

SIZES = {  # transformers' name of a size: GGUF's, behind the architecture's
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}


def model_and_tokenizer(path: Path) -> tuple[Any, Any]:
    """The model in float32 and eval mode, and its tokenizer; ShrinkError for a file that holds something else."""
    from gguf import GGUFReader

    gguf_check.check(path)
    reader = GGUFReader(path)
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    known = dict.fromkeys(gguf_fit.FAMILIES.values())
    if (family := said.get("general.architecture")) not in known:
        raise ShrinkError(f"'{path.name}' holds a '{family}' but known are {', '.join(known)}: take another file.")
    tokenizer = gguf_tokenizer.of(reader.fields, path.name)
    try:
        return model_of(said, tokenizer, {one.name: one for one in reader.tensors}), tokenizer
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # keys or shapes that are no model's
        reason = " ".join(str(error).split())[:200]
        raise ShrinkError(f"'{path.name}' holds no {family} that can be read ({reason}): take another file.") from None


def model_of(said: dict[str, Any], tokenizer: Any, stored: dict[str, Any]) -> Any:
    """The model of a file's keys and tensors; raises what its library raises for keys and shapes that do not fit."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    family = said["general.architecture"]
    heads, width = int(said[f"{family}.attention.head_count"]), int(said[f"{family}.embedding_length"])
    config = AutoConfig.for_model(
        family,
        **{name: said[f"{family}.{key}"] for name, key in SIZES.items()},
        **{f"{one}_token_id": getattr(tokenizer, f"{one}_token_id") for one in ("bos", "eos", "pad")},
        vocab_size=int(stored["token_embd.weight"].shape[1]),
        num_key_value_heads=int(said.get(f"{family}.attention.head_count_kv", heads)),
        head_dim=int(said.get(f"{family}.attention.key_length", width // heads)),
        rope_parameters={"rope_type": "default", "rope_theta": float(said.get(f"{family}.rope.freq_base", 10_000.0))},
        tie_word_embeddings="output.weight" not in stored,
    )
    if odd := [name for name in said if ".rope.scaling." in name]:
        raise ValueError(f"it stretches positions: {odd[0]}")
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, stored)
    return model.eval()


def fill(model: Any, stored: dict[str, Any]) -> None:
    """Put every tensor into its weight, rows of queries and keys back in transformers' order; ValueError if one lacks.

    A file's tensor that the model has no place for changes what it computes, and raises as well.
    """
    import gguf
    import torch

    called = gguf_fit.namer(model.config.model_type, model.config.num_hidden_layers)
    paired = gguf_fit.FAMILIES[model.config.model_type] in gguf_fit.PAIRED
    left = set(stored)
    model.tie_weights()
    for name, weight in model.named_parameters():  # a tied head is not named
        found = called(name)
        if found not in stored:
            raise ValueError(f"it lacks {found}")
        left.remove(found)
        value = torch.tensor(gguf.dequantize(stored[found].data, stored[found].tensor_type), dtype=torch.float32)
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        if paired and (kind := name.split(".")[-2]) in heads:
            value = value.unflatten(0, (heads[kind], -1, 2)).transpose(1, 2).flatten(0, 2)
        if value.shape != weight.shape:
            raise ValueError(f"{found} is {list(value.shape)} but must be {list(weight.shape)}")
        weight.data = value.contiguous()
    if left:
        raise ValueError(f"it has {sorted(left)[0]}, which no {model.config.model_type} has")
