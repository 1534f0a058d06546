"""Where things lie in a decoder of each family, and what it cannot go without; readable without torch.

tasks/generate/cut.py cuts by it; flows/forecast/sizes_decoder.py asks it what a stage would find before anything runs.
"""

from typing import NamedTuple


class Anatomy(NamedTuple):
    """The names of a layer's linears in a family, and of its configuration's key for the neurons."""

    neurons: str
    into: tuple[str, ...]  # each row makes a neuron
    out: str  # each column reads one
    attention: tuple[str, ...]  # queries, keys and values, or all in one
    merge: str  # reads what the heads say
    layers: str  # the name under which the model has its layers


def anatomy(
    into: str, out: str, attention: str, merge: str, neurons: str = "intermediate_size", layers: str = "model.layers"
) -> Anatomy:
    """One family's names, several with blanks between them."""
    return Anatomy(neurons, tuple(into.split()), out, tuple(attention.split()), merge, layers)


APART = "self_attn.q_proj self_attn.k_proj self_attn.v_proj"
GATED = anatomy("mlp.gate_proj mlp.up_proj", "mlp.down_proj", APART, "self_attn.o_proj")
ANATOMIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), GATED),
    "phi": anatomy("mlp.fc1", "mlp.fc2", APART, "self_attn.dense"),
    "phi3": anatomy("mlp.gate_up_proj", "mlp.down_proj", "self_attn.qkv_proj", "self_attn.o_proj"),
    "gpt2": anatomy("mlp.c_fc", "mlp.c_proj", "attn.c_attn", "attn.c_proj", "n_inner", "transformer.h"),
    "opt": anatomy("fc1", "fc2", APART, "self_attn.out_proj", "ffn_dim", "model.decoder.layers"),
}
TABLES = {  # embedding and, where it is not the same, head
    **dict.fromkeys(ANATOMIES, ("model.embed_tokens", "lm_head")),
    "gpt2": ("transformer.wte", "lm_head"),
    "opt": ("model.decoder.embed_tokens", "lm_head"),
}
TIED_HEADS = ("gpt2", "opt")  # the size of a head follows from the width, and all heads have keys of their own
ACROSS = ("gpt2",)  # weights lie as [inputs, outputs]
SCALED = ("gemma", "gemma2", "gemma3_text")  # the embedding is multiplied by the root of the width

NBITS = ("llama", "mistral", "qwen2", "qwen3")  # that export/matmul_nbits builds


def unknown(family: str) -> str | None:
    """Why a family cannot be cut inside of its layers; None where it can."""
    if family in ANATOMIES:
        return None
    return f"it is not known where things lie in a '{family}': choose one of {', '.join(ANATOMIES)}."


def uncut(family: str, field: str) -> str | None:
    """Why a part (groups, hidden, kv_heads) of a family cannot be cut; None where it can."""
    if field != "ffn" and family in TIED_HEADS:
        return f"{field} cannot be cut in a '{family}', whose heads are as many as fit its width: cut ffn."
    if field == "hidden" and family in SCALED:
        return f"{field} cannot be cut in a '{family}', whose embedding is scaled by the width: cut ffn or groups."
    return None


def unpacked(family: str) -> str | None:
    """Why compressed-tensors cannot hold a family; None where it can."""
    if family in ACROSS:
        return f"compressed-tensors packs rows of linear layers, which a '{family}' has the other way round: drop it."
    return None


def without_nbits(family: str) -> str | None:
    """Why export/matmul_nbits cannot build a family; None where it can."""
    if family in NBITS:
        return None
    return f"export/matmul_nbits does not build a '{family}': known are {', '.join(NBITS)}; choose another export."
