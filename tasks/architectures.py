"""The encoders of transformers that the stages know, described without torch: their sizes, weights and limits.

A line such as `attention.self.query: i d` says that a layer has a weight of that name with i rows and d columns and a
bias of i numbers; after `!` there is no bias. The letters are explained at `letters`. tests/tasks/test_architectures.py
compares every description with the weights that transformers' own class has.
"""

from typing import Any

from registry.records import ShrinkError

OFFSET = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "mpnet")  # positions are counted from pad + 1
BERT_SHAPED = ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "ernie", "electra")
OWN_FIELDS: dict[str, dict[str, str]] = {  # what a configuration calls the fields that BERT's calls so
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    "modernbert": {
        "hidden_act": "hidden_activation",
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "norm_eps",
    },
}
DEFAULTS: dict[str, dict[str, Any]] = {  # of transformers' classes, where they differ and a file may leave them out
    **{kind: {"pad_token_id": 1} for kind in OFFSET},
    "modernbert": {"pad_token_id": 50283},
}
PREFIXES = {  # of an encoder's weights in a checkpoint that has a head
    **{kind: f"{kind}." for kind in ("bert", "distilbert", "electra", "mpnet", "albert", "ernie", "roformer")},
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), "roberta."),
    "data2vec-text": "data2vec_text.",
    "deberta-v2": "deberta.",
    "modernbert": "model.",
    "mobilebert": "mobilebert.",
    "squeezebert": "transformer.",
    "nomic_bert": "nomic_bert.",
}
WORDS = "embeddings.word_embeddings: v e !"
TABLES = (WORDS, "embeddings.position_embeddings: p e !", "embeddings.token_type_embeddings: t e !")
FFN = ("intermediate.dense: f d", "output.dense: d f", "output.LayerNorm: d")
OUTPUT = ("attention.output.dense: d i", "attention.output.LayerNorm: d")
BERT = (*(f"attention.self.{name}: i d" for name in ("query", "key", "value")), *OUTPUT, *FFN)
LAYERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*BERT_SHAPED, "roformer"), BERT),
    "distilbert": (
        *(f"attention.{name}_lin: i d" for name in ("q", "k", "v")),
        *("attention.out_lin: d i", "sa_layer_norm: d", "ffn.lin1: f d", "ffn.lin2: d f", "output_layer_norm: d"),
    ),
    "mpnet": (
        *(f"attention.attn.{name}: i d" for name in ("q", "k", "v")),
        *("attention.attn.o: d i", "attention.LayerNorm: d", *FFN),
    ),
    "albert": (
        *(f"attention.{name}: i d" for name in ("query", "key", "value")),
        *("attention.dense: d i", "attention.LayerNorm: d"),
        *("ffn: f d", "ffn_output: d f", "full_layer_layer_norm: d"),
    ),
    "deberta-v2": (*(f"attention.self.{name}_proj: i d" for name in ("query", "key", "value")), *OUTPUT, *FFN),
    "modernbert": (
        *("attn.Wqkv: 3i d !", "attn.Wo: d i !", "mlp.Wi: 2f d !", "mlp.Wo: d f !"),
        *("attn_norm: d !", "mlp_norm: d !"),
    ),
    "nomic_bert": (
        *(f"self_attn.{name}_proj: i d !" for name in ("q", "k", "v")),
        *("self_attn.o_proj: d i !", "mlp.gate_proj: f d !", "mlp.up_proj: f d !", "mlp.down_proj: d f !"),
        *("post_attention_layernorm: d", "post_mlp_layernorm: d"),
    ),
    "mobilebert": (
        *("attention.self.query: i b", "attention.self.key: i b", "attention.self.value: i d"),
        *("attention.output.dense: b i", "attention.output.LayerNorm: b"),
        *("intermediate.dense: f b", "output.dense: b f", "output.LayerNorm: b"),
        *("output.bottleneck.dense: d b", "output.bottleneck.LayerNorm: d"),
        *(f"bottleneck.{name}.{part}" for name in ("input", "attention") for part in ("dense: b d", "LayerNorm: b")),
    ),
    "squeezebert": (
        *(f"attention.{name}: d d/{name[0]}" for name in ("query", "key", "value")),
        *("post_attention.conv1d: d d/post", "post_attention.layernorm: d"),
        *("intermediate.conv1d: f d/intermediate", "output.conv1d: d f/output", "output.layernorm: d"),
    ),
}
TOPS: dict[str, tuple[str, ...]] = {  # what stands beside the layers
    **dict.fromkeys(BERT_SHAPED, (*TABLES, "embeddings.LayerNorm: e")),
    "distilbert": (*TABLES[:2], "embeddings.LayerNorm: e"),
    "mpnet": (*TABLES[:2], "embeddings.LayerNorm: e", "encoder.relative_attention_bias: buckets h !"),
    "albert": (*TABLES, "embeddings.LayerNorm: e", "encoder.embedding_hidden_mapping_in: d e"),
    "deberta-v2": (WORDS, "embeddings.LayerNorm: d", "encoder.rel_embeddings: relative d !", "encoder.LayerNorm: d"),
    "modernbert": ("embeddings.tok_embeddings: v d !", "embeddings.norm: d !", "final_norm: d !"),
    "roformer": (WORDS, TABLES[2], "embeddings.LayerNorm: e", "encoder.embed_positions: p s !"),
    "nomic_bert": (WORDS, TABLES[2], "embeddings.LayerNorm: d"),
    "mobilebert": (
        *(WORDS, "embeddings.position_embeddings: p d !", "embeddings.token_type_embeddings: t d !"),
        *("embeddings.embedding_transformation: d 3e", "embeddings.LayerNorm: d"),
    ),
    "squeezebert": (*TABLES, "embeddings.LayerNorm: e"),
}
STACKS = {  # where the layers are; the others keep them in encoder.layer
    "distilbert": "transformer.layer",
    "albert": "encoder.albert_layer_groups.0.albert_layers",
    "modernbert": "layers",
    "squeezebert": "encoder.layers",
    "nomic_bert": "layers",
}
NEEDED: dict[str, dict[str, Any]] = {  # fields that must be so: other variants have other weights or other answers
    "bert": {"position_embedding_type": "absolute"},
    "albert": {"num_hidden_groups": 1, "inner_group_num": 1},
    "deberta-v2": {
        "relative_attention": True,
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 0,
    },
    "modernbert": {"attention_bias": False, "mlp_bias": False, "norm_bias": False},
    "mobilebert": {
        "trigram_input": True,
        "use_bottleneck": True,
        "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": True,
        "pad_token_id": 0,
    },
}
STRANGERS = {  # why an encoder that looks as if it belonged here does not
    "convbert": "its convolutions mix padding into the text, so that an answer would depend on the texts beside it",
}
SHARED = "all layers of an ALBERT share their weights"
FIRST = "must begin with 0 in a ModernBERT, whose first layer is the only one without a norm: correct the list."
GROUPED = "SqueezeBERT's layers are grouped convolutions"
REFUSED: dict[tuple[str, str], str] = {  # (architecture, what a stage wants to reach): why not, and what instead
    ("mpnet", "heads"): "MPNet's layers share one table of positions a head: cut layers or ffn instead.",
    ("mobilebert", "ffn"): "a MobileBERT layer has several feed-forward parts in a row: cut layers or heads instead.",
    ("mobilebert", "relations"): "MobileBERT's queries and values come from different inputs: use distill/logits.",
    ("squeezebert", "ffn"): f"{GROUPED}: cut layers or vocabulary instead.",
    ("squeezebert", "heads"): f"{GROUPED}: cut layers or vocabulary instead.",
    ("squeezebert", "linears"): f"{GROUPED}, no linear layers: cut layers or vocabulary instead.",
    ("squeezebert", "relations"): f"{GROUPED}, no linear layers: use distill/logits.",
    (
        "squeezebert",
        "int4",
    ): f"{GROUPED}, no matrix products: use quantize/int8_dynamic (for the embedding).",
}

USES = {  # what a method reaches inside layers or graph, beside what its config says
    **dict.fromkeys(("prune/magnitude", "prune/wanda", "prune/gradual", "prune/movement"), "linears"),
    "distill/relations": "relations",
    "quantize/int4_weight_only": "int4",
}


def known() -> list[str]:
    """The model_types that the stages know."""
    return list(LAYERS)


def named(config: dict[str, Any], field: str) -> str:
    """What a configuration calls the field that BERT's calls so."""
    return OWN_FIELDS.get(str(config.get("model_type")), {}).get(field, field)


def value(config: dict[str, Any], field: str, otherwise: Any = None) -> Any:
    """A field of config.json by BERT's name for it, or its default."""
    kind = str(config.get("model_type"))
    return config.get(named(config, field), DEFAULTS.get(kind, {}).get(field, otherwise))


def pad_of(config: dict[str, Any]) -> int:
    """The padding token's number (0 when a configuration names none)."""
    return int(value(config, "pad_token_id", 0) or 0)


def offset(config: dict[str, Any]) -> int:
    """Rows of the position table before the one of a text's first token."""
    return pad_of(config) + 1 if config.get("model_type") in OFFSET else 0


def check_use(kind: str, wanted: str, where: str) -> None:
    """ShrinkError when no stage can reach `wanted` (heads, ffn, linears, relations, int4) inside this architecture."""
    if (why := REFUSED.get((kind, wanted))) is not None:
        raise ShrinkError(f"{where}: {why}")


def letters(config: dict[str, Any]) -> dict[str, int]:
    """What the letters in the descriptions stand for, of this config.json."""
    width, heads = value(config, "hidden_size"), value(config, "num_attention_heads")
    inner = config.get("true_hidden_size") or (config.get("intra_bottleneck_size", 128) if _mobile(config) else width)
    size = inner // heads
    groups = {name: config.get(f"{name}_groups", 4) for name in ("q", "k", "v", "intermediate", "output")}
    buckets = config.get("position_buckets", -1)
    return {
        "v": config["vocab_size"],
        "p": config["max_position_embeddings"],
        "t": config.get("type_vocab_size", 2),
        "e": config.get("embedding_size") or (128 if _mobile(config) else width),  # of the word embedding
        "rank": config.get("embedding_rank") or 0,
        "d": width,
        "b": inner,  # inside a MobileBERT layer
        "h": heads,
        "s": size,  # of one head
        "i": (config.get("kept_heads") or heads) * size,  # of all heads that are left
        "f": value(config, "intermediate_size"),
        "buckets": config.get("relative_attention_num_buckets", 32),
        "relative": 2 * (buckets if buckets > 0 else config["max_position_embeddings"]),
        "post": config.get("post_attention_groups", 1),
        **{name: count for name, count in groups.items() if name not in "v"},
        "value_groups": groups["v"],
    }


def wanted_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """{weight: shape} of the encoder that a config.json describes, without a pooler."""
    kind, sizes = str(config["model_type"]), letters(config)
    top = list(TOPS[kind])
    if kind in {"electra", "roformer"} and sizes["e"] != sizes["d"]:
        top.append("embeddings_project: d e")
    if kind == "ernie" and config.get("use_task_id"):
        top.append("embeddings.task_type_embeddings: task d !")
        sizes["task"] = config.get("task_type_vocab_size", 3)
    if sizes["rank"]:  # a factorised word embedding
        name = top.pop(0).partition(":")[0]
        top = [f"{name}.rows: v rank !", f"{name}.expand: e rank !", *top]
    wanted = {name: shape for line in top for name, shape in tensors(line, sizes).items()}
    stack, inside = STACKS.get(kind, "encoder.layer"), list(LAYERS[kind])
    if kind == "mobilebert":
        ffn = ("intermediate.dense: f b", "output.dense: b f", "output.LayerNorm: b")
        inside += [f"ffn.{at}.{part}" for at in range(config.get("num_feedforward_networks", 4) - 1) for part in ffn]
    for number in range(1 if kind == "albert" else value(config, "num_hidden_layers")):
        for line in inside:
            if not (kind == "modernbert" and number == 0 and line.startswith("attn_norm")):  # its first layer has none
                wanted |= {f"{stack}.{number}.{name}": shape for name, shape in tensors(line, sizes).items()}
    return wanted


def tensors(line: str, sizes: dict[str, int]) -> dict[str, list[int]]:
    """{weight: shape} of one line of a description."""
    name, _, said = line.partition(": ")
    symbols = said.split()
    shape = [size_of(one, sizes) for one in symbols if one != "!"]
    if any("/" in one for one in symbols):
        shape.append(1)  # a convolution over single tokens
    return {f"{name}.weight": shape} | ({} if "!" in symbols else {f"{name}.bias": shape[:1]})


def size_of(symbol: str, sizes: dict[str, int]) -> int:
    """What one symbol stands for: a letter, a multiple of one (`3i`), or a part for each group (`d/q`)."""
    size, _, group = symbol.partition("/")
    count = int(size[0]) if size[0].isdigit() else 1
    parts = sizes["value_groups" if group == "v" else group] if group else 1
    return count * sizes[size.lstrip("0123456789")] // parts


def _mobile(config: dict[str, Any]) -> bool:
    return config.get("model_type") == "mobilebert"
