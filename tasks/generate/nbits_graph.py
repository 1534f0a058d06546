"""A Llama-like decoder as one ONNX graph of ONNX Runtime's own operators (com.microsoft), with a cache of keys and values.

Inputs and outputs have the names that transformers.js and onnxruntime-genai know: input_ids, attention_mask [batch, all
tokens], past_key_values.N.key and .value [batch, heads, tokens, size] and present.N of them, logits. num_logits_to_keep
says of how many of the last tokens there shall be logits, 0: of all. Scales, shifts and plain matrices lie in the file
in half precision; ONNX Runtime makes floats of them, and the tables of the rotation, once when it opens the file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.generate.nbits import Stored
from tasks.generate.nbits_fit import Sizes

MICROSOFT = "com.microsoft"
OPSET, IR = 21, 10
Weights = Callable[[str], Stored | NDArray[np.float32] | None]


class Graph:
    """Nodes and constants that are put together; a name says what a value is of."""

    def __init__(self, weights: Weights, accuracy: int) -> None:
        self.weights, self.accuracy = weights, accuracy
        self.nodes: list[Any] = []
        self.held: dict[str, Any] = {}
        self.made = set[str]()

    def node(self, kind: str, reads: list[str], name: str, *more: str, domain: str = "", **attributes: Any) -> str:
        """A node that gives `name`, and more."""
        self.nodes.append(helper.make_node(kind, reads, [name, *more], name, domain=domain, **attributes))
        return name

    def once(self, kind: str, reads: list[str], name: str, **attributes: Any) -> str:
        """The same, unless there is one already."""
        if name not in self.made:
            self.made.add(name)
            self.node(kind, reads, name, **attributes)
        return name

    def constant(self, name: str, value: Any) -> str:
        """Numbers that the file holds, each once."""
        if name not in self.held:
            self.held[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def whole(self, *values: int) -> str:
        """Whole numbers [n] as an operator's input."""
        return self.constant("number." + ".".join(map(str, values)), np.array(values, dtype=np.int64))

    def floats(self, name: str, value: NDArray[Any]) -> str:
        """Half-precision numbers of the file as floats."""
        return self.once("Cast", [self.constant(f"{name}.half", value.astype(np.float16))], name, to=TensorProto.FLOAT)

    def vector(self, name: str) -> str | None:
        """A norm's weight or a bias, in full; None where the model has none."""
        value = self.weights(name)
        return None if value is None else self.constant(name, value)

    def scale(self, name: str, one: Stored, times: int) -> str:
        """The scales [outputs, blocks] of a plane."""
        scale = self.floats(f"{name}.scale", one.scale)
        if times == 1:
            return scale
        return self.once("Mul", [scale, self.constant(f"times.{times}", np.float32(times))], f"{scale}.{times}")

    def shift(self, name: str, one: Stored) -> str:
        """What a free zero adds to all weights of a group [outputs, groups]."""
        assert one.shift is not None
        moved = self.scale(name, one, one.middle)
        return self.once("Add", [self.floats(f"{name}.shift.own", one.shift), moved], f"{name}.shift")

    def planes(self, name: str, one: Stored) -> list[tuple[list[str], dict[str, int]]]:
        """Of every plane the constants that an operator reads (codes, scales, zeros) and what it must know of them."""
        found = []
        for number, plane in enumerate(one.planes):
            reads = [self.constant(f"{name}.codes.{number}", plane.codes), self.scale(name, one, plane.times)]
            reads += [] if plane.zeros is None else [self.constant(f"{name}.zeros.{number}", plane.zeros)]
            found.append((reads, {"bits": plane.bits, "block_size": one.block}))
        return found

    def added(self, values: list[str], name: str) -> str:
        """The sum of values."""
        found = values[0]
        for number, value in enumerate(values[1:], start=1):
            found = self.node("Add", [found, value], name if number == len(values) - 1 else f"{name}.{number}")
        return found

    def linear(self, reads: str, name: str) -> str:
        """What a linear layer [outputs, inputs] makes of [batch, tokens, inputs]."""
        one, bias = self.weights(f"{name}.weight"), self.vector(f"{name}.bias")
        assert one is not None
        given = f"{name}.output"
        if not isinstance(one, Stored):
            turned = self.once("Transpose", [self.floats(f"{name}.weight", one)], f"{name}.turned", perm=[1, 0])
            parts = [self.node("MatMul", [reads, turned], f"{given}.product")]
        else:
            sizes = {"K": one.inputs, "N": one.outputs}
            sizes |= {"accuracy_level": self.accuracy} if self.accuracy else {}
            parts = [
                self.node("MatMulNBits", [reads, *held], f"{given}.plane.{number}", domain=MICROSOFT, **sizes, **said)
                for number, (held, said) in enumerate(self.planes(f"{name}.weight", one))
            ]
            parts += [self.shifted(reads, name, one)] if one.shift is not None else []
        return self.added([*parts, *([bias] if bias else [])], given)

    def shifted(self, reads: str, name: str, one: Stored) -> str:
        """What a weight's free shifts add to its product: the sums of the inputs' groups times the shifts."""
        apart = self.once("Reshape", [reads, self.whole(0, 0, -1, one.group)], f"{reads}.groups.{one.group}")
        sums = self.once("ReduceSum", [apart, self.whole(-1)], f"{reads}.sums.{one.group}", keepdims=0)
        turned = self.once("Transpose", [self.shift(f"{name}.weight", one)], f"{name}.shift.turned", perm=[1, 0])
        return self.node("MatMul", [sums, turned], f"{name}.shift.product")

    def embedded(self, name: str) -> str:
        """The rows [batch, tokens, width] of input_ids in a table, which is stored as the linear layer of this name."""
        one = self.weights(f"{name}.weight")
        assert one is not None
        if not isinstance(one, Stored):
            self.floats(f"{name}.weight", one)
            rows = self.node("Gather", [f"{name}.weight.half", "input_ids"], f"{name}.rows.half")
            return self.node("Cast", [rows], f"{name}.rows", to=TensorProto.FLOAT)
        parts = []
        for number, (held, said) in enumerate(self.planes(f"{name}.weight", one)):
            flat = self.node("Reshape", [held[0], self.whole(one.outputs, -1)], f"{held[0]}.flat")
            reads = [flat, "input_ids", *held[1:]]
            told = {**said, "gather_axis": 0, "quantize_axis": 1}
            parts.append(
                self.node("GatherBlockQuantized", reads, f"{name}.rows.{number}", domain=MICROSOFT, **told)
            )
        rows = self.added(parts, f"{name}.rows.integers")
        if one.shift is None:
            return rows
        given = self.node("Gather", [self.shift(f"{name}.weight", one), "input_ids"], f"{name}.rows.shift")
        wide = self.node("Unsqueeze", [given, self.whole(-1)], f"{name}.rows.shift.wide")
        apart = self.node("Reshape", [rows, self.whole(0, 0, -1, one.group)], f"{name}.rows.groups")
        both = self.node("Add", [apart, wide], f"{name}.rows.shifted")
        return self.node("Reshape", [both, self.whole(0, 0, -1)], f"{name}.rows")


def build(sizes: Sizes, weights: Weights, accuracy: int, tell: Callable[[int], None] = lambda done: None) -> Any:
    """The graph as a proto, of a model of these sizes and its weights by name.

    `accuracy`: MatMulNBits' accuracy_level, 0 for products of floats and 4 for those of 8 bits.
    """
    graph = Graph(weights, accuracy)
    counted(graph)
    rotation(graph, sizes)
    state = graph.embedded(sizes.embedding)
    normed = graph.node(
        "SimplifiedLayerNormalization", [state, norm(graph, "model.layers.0.input_layernorm")],
        "model.layers.0.input", axis=-1, epsilon=sizes.epsilon, stash_type=1,
    )  # fmt: skip
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
            told = {"axis": -1, "epsilon": sizes.epsilon, "stash_type": 1}
            normed = graph.node("SimplifiedLayerNormalization", [heads, weight], f"{at}.{kind}.normed", **told)
            apart[place] = graph.node("Reshape", [normed, graph.whole(0, 0, -1)], f"{at}.{kind}")
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    reads_all = [*apart, *past, "last", "all", "cosine", "sine"]
    window = sizes.windows[layer]
    said = graph.node(
        "GroupQueryAttention", reads_all, f"{at}.said", *present, domain=MICROSOFT, num_heads=sizes.queries,
        kv_num_heads=sizes.groups, scale=sizes.head_size**-0.5, do_rotary=1, **({"local_window_size": window} if window else {}),
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
    made = helper.make_graph(graph.nodes, "decoder", takes, gives, list(graph.held.values()))
    used = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=used, ir_version=IR, producer_name="shrinking-frontier")
