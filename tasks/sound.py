"""Whether a delivered ONNX model is what it says: looked through by who knows nothing of how it was made.

Each demand is one Check, so that a refusal says exactly which one failed. It runs in the clean process of
tasks/reload.py: what is looked at may have been made to harm, and a graph is only opened once it was found to hold
nothing foreign.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from registry.records import Check, Evaluation

OURS = {"", "ai.onnx", "com.microsoft"}  # domains of operators that ONNX Runtime brings along
ENDLESS = ("Loop", "Scan")  # no encoder has them, and one alone may never end
FOREIGN = ("auto_map", "trust_remote_code", "custom_pipelines")  # by which other libraries run code of a model's folder
DEEPEST = 8  # graphs inside of graphs
SHARE = 1e-9  # by which a recomputed number may differ from a declared one: both are sums of whole numbers


def check(name: str, passed: bool, why: str, value: float | None = None, limit: float | None = None) -> Check:
    """One demand and how it ended."""
    return Check(name=name, value=value, limit=limit, passed=passed, why=why)


def config(directory: Path) -> Check:
    """config.json is a model's and makes no library run code from its folder."""
    try:
        said = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return check("config", False, f"config.json cannot be read: {error!s:.120}")
    if not isinstance(said, dict):
        return check("config", False, "config.json holds no object")
    foreign = next((word for word in FOREIGN if word in said), None)
    if foreign is not None:
        return check("config", False, f"config.json has {foreign}, by which a library would run code of the folder")
    return check("config", True, "config.json is a model's and names no code")


def graphs(graph: Any, depth: int = 0) -> Iterator[Any]:
    """A graph and all that lie in its nodes' attributes; ValueError when they nest too deep."""
    if depth > DEEPEST:
        raise ValueError(f"graphs lie {DEEPEST} deep in each other")
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in ([item.g] if item.HasField("g") else []) + list(item.graphs):
                yield from graphs(inner, depth + 1)


def tensors(proto: Any) -> Iterator[Any]:
    """Every stored tensor: initializers, sparse ones, and those in attributes of nodes, also of inner graphs."""
    for graph in graphs(proto.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for item in node.attribute:
                yield from ([item.t] if item.HasField("t") else []) + list(item.tensors)


def graph(proto: Any, output: str) -> Check:
    """The graph is whole and self-contained, of known operators alone, with the inputs and output that are asked."""
    import onnx

    said = foreign(proto) or missing_input(proto) or ends(proto, output)
    if said is None:
        try:
            onnx.checker.check_model(proto, full_check=True)
        except Exception as error:  # ValidationError, InferenceError and what protobuf raises
            said = " ".join(str(error).split())[:160]
    return check("graph", said is None, said or "whole, self-contained, of known operators")


def foreign(proto: Any) -> str | None:
    """What of a graph would reach outside of it or may never end; None when there is nothing."""
    from onnx import TensorProto, defs

    if proto.functions:
        return f"it brings a function of its own along ({proto.functions[0].name})"
    for one in tensors(proto):
        if one.data_location == TensorProto.EXTERNAL or one.external_data:
            return f"weight {one.name} lies in another file: a model is one self-contained file"
    for inner in graphs(proto.graph):
        for node in inner.node:
            known = node.domain in OURS and (node.domain == "com.microsoft" or defs.has(node.op_type, ""))
            if not known:
                return f"operator {node.domain or 'ai.onnx'}::{node.op_type} is custom: ONNX Runtime brings none such"
            if node.op_type in ENDLESS:
                return f"operator {node.op_type} may never end"
    return None


def missing_input(proto: Any) -> str | None:
    """The first value that a node of the outer graph reads and nobody makes; None when there is none."""
    made = {item.name for item in (*proto.graph.input, *proto.graph.initializer)}
    made |= {name for node in proto.graph.node for name in node.output}
    made |= {one.values.name for one in proto.graph.sparse_initializer}
    lost = next((name for node in proto.graph.node for name in node.input if name and name not in made), None)
    return None if lost is None else f"{lost} is read and nowhere made"


def ends(proto: Any, output: str) -> str | None:
    """What is wrong with a graph's inputs and output; None when nothing is."""
    from onnx import TensorProto

    stored = {one.name for one in proto.graph.initializer}
    read = {one.name: one.type.tensor_type.elem_type for one in proto.graph.input if one.name not in stored}
    if read != dict.fromkeys(("input_ids", "attention_mask"), TensorProto.INT64):
        return f"its inputs are {sorted(read)}, not input_ids and attention_mask in int64"
    given = [one.name for one in proto.graph.output]
    return None if given == [output] else f"its outputs are {given}, not {output}"


def dtype(proto: Any) -> Check:
    """Weights and output are of kinds that are delivered: answers in float32, no weight in double precision."""
    from onnx import TensorProto

    known = {"FLOAT", "FLOAT16", "INT8", "UINT8", "INT32", "INT64", "BOOL", "INT4", "UINT4"}
    kinds = {one.name: TensorProto.DataType.Name(one.data_type) for one in tensors(proto)}
    odd = next((name for name, kind in kinds.items() if kind not in known), None)
    if odd is not None:
        return check("dtype", False, f"weight {odd} is stored as {kinds[odd]}, which no stage writes")
    told = TensorProto.DataType.Name(proto.graph.output[0].type.tensor_type.elem_type) if proto.graph.output else "none"
    return check("dtype", told == "FLOAT", f"answers are {told}, asked for is FLOAT")


def scales(proto: Any) -> Check:
    """Every rounded weight has its scale, and every scale is a number above zero."""
    from onnx import numpy_helper

    stored = {one.name: one for one in proto.graph.initializer}
    wanted = {name for node in proto.graph.node for name in scales_of(node)}
    for name, base in ((name, rounded(name)) for name in stored):
        if base is not None:  # a bias of static rounding carries its scale under its own rounded name
            wanted.add(f"{name}_scale" if f"{name}_scale" in stored else f"{base}_scale")
    held = wanted & set(stored)
    made = {name for node in proto.graph.node for name in node.output} | {item.name for item in proto.graph.input}
    lost = sorted(wanted - held - made)
    if lost:
        return check("scales", False, f"{lost[0]} is missing: nobody knows what its integers stand for")
    for name in sorted(held):
        values = numpy_helper.to_array(stored[name]).astype(np.float32)
        if not (values.size and np.isfinite(values).all() and (np.abs(values) > 0).all()):
            return check("scales", False, f"{name} holds zeros or what is no number")
    return check("scales", True, f"{len(held)} scales, all numbers other than zero", float(len(held)))


def rounded(name: str) -> str | None:
    """The weight that a tensor holds the integers of, by the names that quantisers give; None for other tensors."""
    return next((name.removesuffix(end) for end in ("_quantized", "_int8", "_int4") if name.endswith(end)), None)


def scales_of(node: Any) -> list[str]:
    """The scales that a node reads."""
    places = {
        "DequantizeLinear": (1,),
        "QuantizeLinear": (1,),
        "MatMulNBits": (2,),
        "DynamicQuantizeMatMul": (2,),
        "MatMulIntegerToFloat": (2, 3),
        "QLinearMatMul": (1, 4, 6),
    }
    held = [node.input[place] for place in places.get(node.op_type, ()) if place < len(node.input)]
    named = [name for name in node.input if name.endswith("_scale")] if node.op_type in ("Mul", "Gather") else []
    return [name for name in (*held, *named) if name]


def finite(proto: Any) -> Check:
    """No weight is NaN or infinite."""
    from onnx import TensorProto, numpy_helper

    for one in tensors(proto):
        if (
            one.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
            and not np.isfinite(numpy_helper.to_array(one)).all()
        ):
            return check("weights", False, f"weight {one.name} holds NaN or infinity")
    return check("weights", True, "all weights are numbers")


def labels(proto: Any, said: dict[str, Any], wanted: list[str] | None) -> Check:
    """As many labels as the output is wide, each once, in the order of the data's where these are at hand."""
    given = said.get("labels")
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given) or len(set(given)) != len(given):
        return check("labels", False, f"config.json's labels are {given!r:.80}, not a list of names, each once")
    last = proto.graph.output[0].type.tensor_type.shape.dim
    wide = int(last[-1].dim_value) if last else 0
    if given and wide and wide != len(given):
        return check("labels", False, f"there are {len(given)} labels and the model answers {wide} numbers", wide)
    if wanted is not None and given != wanted:
        return check("labels", False, f"the labels are {given!r:.80} and the data's are {wanted!r:.80}, in this order")
    return check("labels", True, f"{len(given)} labels, as the model answers", float(len(given)))


def tokenizer(directory: Path, opened: Any) -> Check:
    """The model has a row for the last id that its tokenizer gives."""
    from tasks import runtime

    known = runtime.tokenizer(directory).get_vocab(with_added_tokens=True)
    last = max(known.values(), default=-1)
    if last < 0:
        return check("tokenizer", False, "the tokenizer knows no piece")
    try:
        opened.run(None, runtime.feeds([[last, last]]))
    except Exception as error:  # ONNX Runtime's own kinds
        said = " ".join(str(error).split())[-120:]
        return check("tokenizer", False, f"id {last} of the tokenizer has no row in the model ({said})", float(last))
    return check("tokenizer", True, f"ids up to {last} have a row in the model", float(last))


def counted(directory: Path, evaluation: Evaluation | None) -> Iterator[Check]:
    """Weights and multiply-adds are those that were declared when it was judged."""
    from tasks import bench

    if evaluation is None:
        return
    for name, found, told in (
        ("parameters", bench.parameters(directory), evaluation.student.parameters),
        ("macs", bench.macs(directory), evaluation.student.macs),
    ):
        if told is None or found is None:
            continue
        what = {"parameters": "weights", "macs": "multiply-adds a text"}[name]
        fits = abs(found - told) <= SHARE * told
        yield check(name, fits, f"{found} {what}, declared are {told}", float(found), float(told))
