"""Which weights a decoder of a known family must have, and of which sizes, by what its configuration says.

Names are those of transformers, shapes [outputs, inputs]. No torch: they are compared with the header of
model.safetensors before anything is loaded.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.generate import families

if TYPE_CHECKING:
    from tasks.generate.header import Decoder

Shapes = dict[str, tuple[int, ...]]


class Parts(NamedTuple):
    """What a family has beside its linear layers."""

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")  # of a layer
    end: str = "model.norm"  # the norm behind the last one
    heads: bool = False  # whether queries and keys have norms of their own
    biased: str = ""  # whose linear layers always have biases: `all`, or those of `attention`
    shifted: bool = False  # whether norms have biases
    tied: bool = False  # whether the head is the embedding where config.json does not say it


FOUR = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
PARTS = {
    **dict.fromkeys(("llama", "mistral", "phi3"), Parts()),
    "qwen2": Parts(biased="attention"),
    "qwen3": Parts(heads=True),
    "gemma": Parts(tied=True),
    "gemma2": Parts(FOUR, tied=True),
    "gemma3_text": Parts(FOUR, heads=True, tied=True),
    "phi": Parts(("input_layernorm",), "model.final_layernorm", biased="all", shifted=True),
    "gpt2": Parts(("ln_1", "ln_2"), "transformer.ln_f", biased="all", shifted=True, tied=True),
    "opt": Parts(
        ("self_attn_layer_norm", "final_layer_norm"),
        "model.decoder.final_layer_norm",
        biased="all",
        shifted=True,
        tied=True,
    ),
}


def linears(decoder: "Decoder") -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a layer's linears by their names in it; none in a family that is not known."""
    if (where := families.ANATOMIES.get(decoder.family)) is None:
        return {}
    wide, keys = decoder.queries * decoder.head, decoder.groups * decoder.head
    apart = (wide, keys, keys) if len(where.attention) == 3 else (wide + 2 * keys,)
    neurons = decoder.neurons * (2 if where.into == ("mlp.gate_up_proj",) else 1)  # two in one
    found = dict.fromkeys(where.into, (neurons, decoder.width))
    found |= {name: (outputs, decoder.width) for name, outputs in zip(where.attention, apart, strict=True)}
    return found | {where.out: (decoder.width, decoder.neurons), where.merge: (decoder.width, wide)}


def wanted(decoder: "Decoder", config: dict[str, Any]) -> Shapes:
    """Every weight by its name; none in a family that is not known."""
    if decoder.family not in PARTS:
        return {}
    where, parts = families.ANATOMIES[decoder.family], PARTS[decoder.family]
    one = layer(decoder, config)
    found: Shapes = {
        f"{where.layers}.{at}.{name}": shape for at in range(decoder.layers) for name, shape in one.items()
    }
    embedding, head = families.TABLES[decoder.family]
    found[f"{embedding}.weight"] = (decoder.pieces, decoder.width)
    if not config.get("tie_word_embeddings", parts.tied):
        found[f"{head}.weight"] = (decoder.pieces, decoder.width)
    if config.get("do_layer_norm_before", True):  # an OPT that has it behind its parts has none at the end
        found |= norm(parts.end, decoder.width, parts.shifted)
    return found


def layer(decoder: "Decoder", config: dict[str, Any]) -> Shapes:
    """The weights of one layer."""
    where, parts = families.ANATOMIES[decoder.family], PARTS[decoder.family]
    found: Shapes = {}
    for name, (outputs, inputs) in linears(decoder).items():
        found[f"{name}.weight"] = (inputs, outputs) if decoder.family in families.ACROSS else (outputs, inputs)
        attends = name in where.attention
        biased = parts.biased == "all" and config.get("enable_bias", True)
        biased = biased or (parts.biased == "attention" and attends)
        biased = biased or bool(config.get("attention_bias") and (attends or name == where.merge))
        if biased or (config.get("mlp_bias") and name in (*where.into, where.out)):
            found[f"{name}.bias"] = (outputs,)
    for name in parts.norms:
        found |= norm(name, decoder.width, parts.shifted)
    for name in ("self_attn.q_norm", "self_attn.k_norm") if parts.heads else ():
        found[f"{name}.weight"] = (decoder.head,)
    return found


def norm(name: str, width: int, shifted: bool) -> Shapes:
    """The weights of one norm."""
    found: Shapes = {f"{name}.weight": (width,)}
    return found | {f"{name}.bias": (width,)} if shifted else found


def of_gguf(decoder: "Decoder") -> Shapes:
    """Every weight of a Llama's GGUF file, inputs first as the file has them; a head may be left out."""
    wide, keys, width = decoder.queries * decoder.head, decoder.groups * decoder.head, decoder.width
    one: Shapes = {
        "attn_q.weight": (width, wide),
        "attn_k.weight": (width, keys),
        "attn_v.weight": (width, keys),
        "attn_output.weight": (wide, width),
        "ffn_gate.weight": (width, decoder.neurons),
        "ffn_up.weight": (width, decoder.neurons),
        "ffn_down.weight": (decoder.neurons, width),
        "attn_norm.weight": (width,),
        "ffn_norm.weight": (width,),
    }
    found = {f"blk.{at}.{name}": shape for at in range(decoder.layers) for name, shape in one.items()}
    return found | {"token_embd.weight": (width, decoder.pieces), "output_norm.weight": (width,)}
