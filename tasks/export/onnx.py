"""Export a torch classifier to ONNX: one self-contained file whose bytes depend on the weights alone.

The exporter leaves stack traces with source paths in the graph's metadata; they are stripped, so that two
checkouts in different folders end with the same digest.
"""

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import progress


class OnnxConfig(BaseModel):
    """Settings of the ONNX export."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"model": "torch"}
    writes: ClassVar[tuple[str, str]] = ("model", "onnx")
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["onnx"] = Field("onnx", description="The export format.")
    opset: int = Field(18, ge=18, le=22, description="ONNX operator set of the exported graph.")
    tolerance: float = Field(1e-3, gt=0, description="Largest allowed difference of an output between torch and ONNX.")


def run(inputs: dict[str, Path], config: OnnxConfig, out: Path, seed: int) -> dict[str, Any]:
    """Export inputs["model"], compare the graph with torch on random tokens, and write the ONNX artifact."""
    import numpy
    import torch

    from tasks.models import load
    from tasks.runtime import session

    source = inputs["model"]
    model = load(source)[0].eval()
    progress.report(0, 2, "exporting")
    save(export(model, config.opset), out / "model.onnx")
    write_sidecars(source, out)
    progress.report(1, 2, "comparing with torch")
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for batch, length in ((1, 5), (3, 17)):
        tokens, mask = example(model, batch, length, generator)
        with torch.inference_mode():
            expected = model(tokens, mask).float().numpy()
        feeds = {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()}
        worst = max(worst, float(numpy.abs(session(out).run(None, feeds)[0] - expected).max()))
    if not worst <= config.tolerance:
        raise RuntimeError(f"the exported graph differs from torch by {worst:.2g} (tolerance {config.tolerance:g})")
    progress.report(2, 2, f"largest difference {worst:.1e}")
    return {"max_difference": worst, "onnx_bytes": (out / "model.onnx").stat().st_size}


def example(model: Any, batch: int, length: int, generator: Any) -> tuple[Any, Any]:
    """Random tokens of at most the longest input, and a mask whose last row is two tokens shorter."""
    import torch

    from tasks import encoders

    length = min(length, encoders.positions(model.encoder))
    rows = model.table.num_embeddings
    tokens = torch.randint(0, rows, (batch, length), generator=generator)
    if model.separator is not None:  # the second texts of pairs begin in the middle
        tokens[:, length // 2] = model.separator
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, -2:] = 0
    return tokens, mask


def export(model: Any, opset: int) -> Any:
    """The model as an ONNX proto with dynamic batch and length, inputs input_ids and attention_mask, one output.

    The output is `logits`, or `sentence_embedding` where the model has no labels.
    """
    import torch

    from tasks import encoders
    from tasks.runtime import OUTPUTS

    tokens, mask = example(model, 2, 16, torch.Generator().manual_seed(0))
    longest = encoders.positions(model.encoder)
    axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=longest)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (tokens, mask),
            input_names=["input_ids", "attention_mask"],
            output_names=[OUTPUTS["classify" if model.head.out_features else "embed"]],
            dynamic_shapes=(axes, axes),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return fold_transposes(program.model_proto)


def fold_transposes(proto: Any) -> Any:
    """Transpose constant matrices once and for all: the quantisers only see weights that are initializers."""
    import numpy
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in [node for node in proto.graph.node if node.op_type == "Transpose" and node.input[0] in held]:
        order = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
        value = numpy.ascontiguousarray(numpy.transpose(numpy_helper.to_array(held[node.input[0]]), order))
        proto.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        proto.graph.node.remove(node)
    prune_initializers(proto)
    return proto


def prune_initializers(proto: Any) -> None:
    """Drop the initializers that no node reads any more."""
    used = {name for node in proto.graph.node for name in node.input} | {item.name for item in proto.graph.output}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)


def strip(message: Any) -> None:
    """Clear metadata and doc strings everywhere below a proto message, subgraphs included."""
    for field in ("metadata_props", "doc_string"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for part in value if hasattr(value, "__len__") and not hasattr(value, "DESCRIPTOR") else [value]:
                strip(part)


def save(proto: Any, path: Path) -> None:
    """Write a proto without metadata and in deterministic order."""
    strip(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def write_sidecars(source: Path, out: Path) -> None:
    """Copy tokenizer.json and write config.json with what a server needs of head.json."""
    head = json.loads((source / "head.json").read_text(encoding="utf-8"))
    if not (source / "tokenizer.json").is_file():
        raise ShrinkError("model: the torch artifact has no tokenizer.json; save the fast tokenizer beside the weights")
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    kinds = {name: head.get(name, False) for name in ("multi_label", "pairs")}
    config = {"task": head.get("task", "classify"), "labels": head["labels"], "max_length": head["max_length"], **kinds}
    (out / "config.json").write_text(json.dumps(config, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def copy_sidecars(source: Path, out: Path) -> None:
    """Carry tokenizer.json and config.json from one ONNX artifact to the next."""
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(source / name, out / name)
