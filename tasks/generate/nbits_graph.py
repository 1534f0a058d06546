"""A Llama-like decoder as one ONNX graph of ONNX Runtime's own operators (com.microsoft), with a cache of what it read.

Inputs and outputs have the names that transformers.js and onnxruntime-genai know: input_ids, attention_mask [batch, all
tokens], past_key_values.N.key and .value [batch, heads, tokens, size] and present.N of them, logits. num_logits_to_keep
says of how many of the last tokens there shall be logits, 0: of all. The tables of the rotation are made when ONNX
Runtime opens the file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tasks.generate.nbits_fit import Sizes
from tasks.generate.nbits_nodes import MICROSOFT, Graph, Weights

OPSET, IR = 21, 10


def build(sizes: Sizes, weights: Weights, accuracy: int, tell: Callable[[int], None] = lambda done: None) -> Any:
    """The graph as a proto, of a model of these sizes and its weights by name.

    `accuracy`: MatMulNBits' accuracy_level, 0 for products of floats and 4 for those of 8 bits.
    """
    graph = Graph(weights, accuracy)
    counted(graph)
    rotation(graph, sizes)
    state = graph.embedded(sizes.embedding)
    first = norm(graph, "model.layers.0.input_layernorm")
    normed = own_norm(graph, sizes, state, first, "model.layers.0.input")
    for layer in range(sizes.layers):
        at = f"model.layers.{layer}"
        said = attention(graph, sizes, layer, normed)
        state, normed = joined(graph, sizes, state, said, f"{at}.post_attention_layernorm")
        said = forward(graph, f"{at}.mlp", normed)
        last = layer + 1 == sizes.layers
        after = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
        state, normed = joined(graph, sizes, state, said, after)
        tell(layer + 1)
    begin = graph.node("Reshape", [graph.node("Neg", ["num_logits_to_keep"], "begin.one"), graph.whole(-1)], "begin")
    kept = graph.node("Slice", [normed, begin, graph.whole(2**62), graph.whole(1)], "kept")
    graph.node("Identity", [graph.linear(kept, sizes.head)], "logits")
    return proto(graph, sizes)


def norm(graph: Graph, name: str) -> str:
    """A norm's weight."""
    found = graph.vector(f"{name}.weight")
    assert found is not None
    return found


def own_norm(graph: Graph, sizes: Sizes, reads: str, weight: str, name: str) -> str:
    """What a norm by the root of the mean square makes of a value, where nothing is added to it first."""
    kind = "SimplifiedLayerNormalization"
    return graph.node(kind, [reads, weight], name, axis=-1, epsilon=sizes.epsilon, stash_type=1)


def counted(graph: Graph) -> None:
    """How many tokens there are, by the mask: what attention is told."""
    graph.node("ReduceSum", ["attention_mask", graph.whole(1)], "count", keepdims=0)
    graph.node("Sub", ["count", graph.whole(1)], "count.before")
    graph.node("Cast", ["count.before"], "last", to=TensorProto.INT32)
    graph.node("Shape", ["attention_mask"], "mask.sizes")
    graph.node("Gather", ["mask.sizes", graph.constant("one", np.int64(1))], "mask.size", axis=0)
    graph.node("Cast", ["mask.size"], "all", to=TensorProto.INT32)


def rotation(graph: Graph, sizes: Sizes) -> None:
    """Cosines and sines [context, half a head]."""
    ends = [graph.constant(f"place.{value}", np.float32(value)) for value in (0, sizes.context, 1)]
    graph.node("Range", ends, "place")
    graph.node("Unsqueeze", ["place", graph.whole(1)], "place.column")
    angles = graph.constant("frequencies", sizes.frequencies[None].astype(np.float32))
    graph.node("Mul", ["place.column", angles], "angle")
    factor = graph.constant("rotation.factor", np.float32(sizes.factor))
    for kind, name in (("Cos", "cosine"), ("Sin", "sine")):
        graph.node("Mul", [graph.node(kind, ["angle"], f"{name}.one"), factor], name)


def attention(graph: Graph, sizes: Sizes, layer: int, reads: str) -> str:
    """What a layer's heads say [batch, tokens, width]."""
    at = f"model.layers.{layer}.self_attn"
    apart = [graph.linear(reads, f"{at}.{kind}_proj") for kind in "qkv"]
    for place, kind in enumerate("qk"):
        if (weight := graph.vector(f"{at}.{kind}_norm.weight")) is not None:
            heads = graph.node("Reshape", [apart[place], graph.whole(0, 0, -1, sizes.head_size)], f"{at}.{kind}.heads")
            normed = own_norm(graph, sizes, heads, weight, f"{at}.{kind}.normed")
            apart[place] = graph.node("Reshape", [normed, graph.whole(0, 0, -1)], f"{at}.{kind}")
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    reads_all = [*apart, *past, "last", "all", "cosine", "sine"]
    window = sizes.windows[layer]
    looks = {"local_window_size": window} if window else {}
    said = graph.node(
        "GroupQueryAttention", reads_all, f"{at}.said", *present, domain=MICROSOFT, num_heads=sizes.queries,
        kv_num_heads=sizes.groups, scale=sizes.head_size**-0.5, do_rotary=1, **looks,
    )  # fmt: skip
    return graph.linear(said, f"{at}.o_proj")


def forward(graph: Graph, at: str, reads: str) -> str:
    """What a layer's gated neurons say."""
    gate = graph.linear(reads, f"{at}.gate_proj")
    open_ = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{at}.sigmoid")], f"{at}.gate")
    neurons = graph.node("Mul", [open_, graph.linear(reads, f"{at}.up_proj")], f"{at}.neurons")
    return graph.linear(neurons, f"{at}.down_proj")


def joined(graph: Graph, sizes: Sizes, state: str, said: str, name: str) -> tuple[str, str]:
    """The state with what was said added to it, and both normed for what comes behind."""
    reads, given = [state, said, norm(graph, name)], (f"{name}.output", "", "", f"{name}.state")
    graph.node("SkipSimplifiedLayerNormalization", reads, *given, domain=MICROSOFT, epsilon=sizes.epsilon)
    return given[3], given[0]


def proto(graph: Graph, sizes: Sizes) -> Any:
    """The finished model."""

    def value(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def cache(name: str, tokens: str) -> list[Any]:
        shape = ("batch", sizes.groups, tokens, sizes.head_size)
        each = [f"{name}.{layer}.{kind}" for layer in range(sizes.layers) for kind in ("key", "value")]
        return [value(one, TensorProto.FLOAT, *shape) for one in each]

    takes = [value("input_ids", TensorProto.INT64, "batch", "tokens")]
    takes += [value("attention_mask", TensorProto.INT64, "batch", "all_tokens")]
    takes += [value("num_logits_to_keep", TensorProto.INT64), *cache("past_key_values", "past_tokens")]
    gives = [value("logits", TensorProto.FLOAT, "batch", "kept_tokens", sizes.pieces), *cache("present", "held_tokens")]
    model = graph.model
    model.ir_version, model.producer_name, model.graph.name = IR, "shrinking-frontier", "decoder"
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)])
    model.graph.input.extend(takes)
    model.graph.output.extend(gives)
    return model
