"""Quantise the word embedding of an ONNX graph row by row: int8, or int4 in groups of columns.

The table is stored small and only the gathered rows are dequantised, with standard operators, so that every ONNX
runtime reads it. int4 packs column j (low nibble) and column j + d/2 (high nibble) into one byte.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError

Bits = Literal["none", "int8", "int4"]
GROUP = 32
CLIPS = (1.0, 0.9, 0.8, 0.7)


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Symmetric int8 rows and one half-precision scale a row."""
    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127.0, 1e-7).astype(np.float16)
    values = np.clip(np.rint(table / scale.astype(np.float32)), -127, 127).astype(np.int8)
    return values, scale


def quantize_groups(table: NDArray[np.float32], group: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Packed int4 rows and a half-precision scale for each group of columns; the clip with the least error wins."""
    rows, width = table.shape
    parts = table.reshape(rows, width // group, group)
    full = np.maximum(np.abs(parts).max(axis=2, keepdims=True) / 7.0, 1e-7)
    best = full.astype(np.float16)
    least = np.full(full.shape, np.inf, dtype=np.float32)
    for clip in CLIPS:
        scale = np.maximum(full * clip, 1e-7).astype(np.float16)
        wide = scale.astype(np.float32)
        error = ((np.clip(np.rint(parts / wide), -8, 7) * wide - parts) ** 2).sum(axis=2, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    values = np.clip(np.rint(parts / best.astype(np.float32)), -8, 7).reshape(rows, width) + 8
    codes = values.astype(np.uint8)
    packed = codes[:, : width // 2] | (codes[:, width // 2 :] << 4)
    return packed.astype(np.uint8), best[:, :, 0]


def dequantize_groups(packed: NDArray[np.uint8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """The table that packed int4 rows stand for."""
    codes = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    groups = codes.reshape(packed.shape[0], scale.shape[1], -1) * scale.astype(np.float32)[:, :, None]
    return groups.reshape(packed.shape[0], -1)


def group_of(width: int) -> int:
    """The largest power of two up to 32 that divides the width."""
    return next(size for size in (32, 16, 8, 4, 2, 1) if size <= GROUP and width % size == 0)


def find_gather(proto: Any) -> Any:
    """The Gather node that looks input_ids up in a constant table."""
    constants = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT}
    tokens = {"input_ids"}
    for node in proto.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape") and node.input[0] in tokens:
            tokens.add(node.output[0])
        if node.op_type == "Gather" and node.input[0] in constants and node.input[1] in tokens:
            return node
    raise ShrinkError("embedding: the graph has no Gather of input_ids in a float table; set embedding to none")


def quantize_embedding(proto: Any, bits: Bits) -> dict[str, float]:
    """Replace the word embedding of a proto in place; returns the root mean square error of the table."""
    if bits == "none":
        return {}
    from onnx import numpy_helper

    from tasks.export.onnx import prune_initializers

    gather = find_gather(proto)
    held = next(tensor for tensor in proto.graph.initializer if tensor.name == gather.input[0])
    table = numpy_helper.to_array(held).astype(np.float32)
    if bits == "int4" and table.shape[1] % 2:
        raise ShrinkError(f"embedding: int4 needs an even width, the table has {table.shape[1]}; set embedding to int8")
    build = _int8_nodes if bits == "int8" else _int4_nodes
    tensors, nodes, back = build(table, gather)
    place = list(proto.graph.node).index(gather)
    proto.graph.node.remove(gather)
    for offset, node in enumerate(nodes):
        proto.graph.node.insert(place + offset, node)
    proto.graph.initializer.extend(tensors)
    prune_initializers(proto)
    return {"embedding_rmse": float(np.sqrt(np.mean((back - table) ** 2)))}


def _int8_nodes(table: NDArray[np.float32], gather: Any) -> tuple[list[Any], list[Any], NDArray[np.float32]]:
    from onnx import TensorProto, helper, numpy_helper

    values, scale = quantize_rows(table)
    name, ids, end = gather.input[0], gather.input[1], gather.output[0]
    tensors = [numpy_helper.from_array(values, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
    nodes = [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{end}_q"], axis=0),
        helper.make_node("Cast", [f"{end}_q"], [f"{end}_qf"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{end}_s"], axis=0),
        helper.make_node("Cast", [f"{end}_s"], [f"{end}_sf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{end}_qf", f"{end}_sf"], [end]),
    ]
    return tensors, nodes, values.astype(np.float32) * scale.astype(np.float32)


def _int4_nodes(table: NDArray[np.float32], gather: Any) -> tuple[list[Any], list[Any], NDArray[np.float32]]:
    from onnx import TensorProto, helper, numpy_helper

    width = table.shape[1]
    group = group_of(width)
    packed, scale = quantize_groups(table, group)
    name, ids, end = gather.input[0], gather.input[1], gather.output[0]
    constants = {
        f"{name}_int4": packed,
        f"{name}_scale": scale,
        f"{end}_sixteen": np.array(16, dtype=np.int32),
        f"{end}_eight": np.array(8, dtype=np.float32),
        f"{end}_split": np.array([0, 0, width // group, group], dtype=np.int64),
        f"{end}_join": np.array([0, 0, width], dtype=np.int64),
        f"{end}_last": np.array([-1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", [f"{name}_int4", ids], [f"{end}_p"], axis=0),
        helper.make_node("Cast", [f"{end}_p"], [f"{end}_i"], to=TensorProto.INT32),
        helper.make_node("Div", [f"{end}_i", f"{end}_sixteen"], [f"{end}_hi"]),
        helper.make_node("Mod", [f"{end}_i", f"{end}_sixteen"], [f"{end}_lo"]),
        helper.make_node("Concat", [f"{end}_lo", f"{end}_hi"], [f"{end}_c"], axis=-1),
        helper.make_node("Cast", [f"{end}_c"], [f"{end}_cf"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{end}_cf", f"{end}_eight"], [f"{end}_v"]),
        helper.make_node("Reshape", [f"{end}_v", f"{end}_split"], [f"{end}_g"]),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{end}_s"], axis=0),
        helper.make_node("Cast", [f"{end}_s"], [f"{end}_sf"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", [f"{end}_sf", f"{end}_last"], [f"{end}_su"]),
        helper.make_node("Mul", [f"{end}_g", f"{end}_su"], [f"{end}_m"]),
        helper.make_node("Reshape", [f"{end}_m", f"{end}_join"], [end]),
    ]
    tensors = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    return tensors, nodes, dequantize_groups(packed, scale)
