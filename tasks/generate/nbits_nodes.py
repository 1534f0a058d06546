"""Nodes and constants of an ONNX graph of a decoder: its linear layers and its embedding, rounded or plain.

Scales, shifts and plain matrices lie in the file in half precision; ONNX Runtime makes floats of them once, when it
opens the file. A table that is embedding and head is one constant, which both operators read.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tasks.generate.nbits import Stored

MICROSOFT = "com.microsoft"
Weights = Callable[[str], Stored | NDArray[np.float32] | None]


class Graph:
    """Nodes and constants that are put together; a name says what a value is of."""

    def __init__(self, weights: Weights, accuracy: int) -> None:
        self.weights, self.accuracy = weights, accuracy
        self.model: Any = ModelProto()  # filled in place: constants that are put into a list are copied twice
        self.held = set[str]()
        self.made = set[str]()

    def node(self, kind: str, reads: list[str], name: str, *more: str, domain: str = "", **attributes: Any) -> str:
        """A node that gives `name`, and more."""
        made = helper.make_node(kind, reads, [name, *more], name, domain=domain, **attributes)
        self.model.graph.node.append(made)
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
            self.held.add(name)
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
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
            parts.append(self.node("GatherBlockQuantized", reads, f"{name}.rows.{number}", domain=MICROSOFT, **told))
        rows = self.added(parts, f"{name}.rows.integers")
        if one.shift is None:
            return rows
        given = self.node("Gather", [self.shift(f"{name}.weight", one), "input_ids"], f"{name}.rows.shift")
        wide = self.node("Unsqueeze", [given, self.whole(-1)], f"{name}.rows.shift.wide")
        apart = self.node("Reshape", [rows, self.whole(0, 0, -1, one.group)], f"{name}.rows.groups")
        both = self.node("Add", [apart, wide], f"{name}.rows.shifted")
        return self.node("Reshape", [both, self.whole(0, 0, -1)], f"{name}.rows")
