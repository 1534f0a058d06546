"""What is done to a candidate: to its graph, its folder, its evidence, and to what the registry has stored of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from registry.records import directory_bytes
from tasks import bench
from tests.sabotage import models
from tests.sabotage.factory import Candidate, Yard

Edit = Callable[[Any], None]


class Desk:
    """One case at work: the yard, the sound candidates, a place for files, and the model's name."""

    def __init__(self, yard: Yard, sound: dict[str, Candidate], place: Path, name: str) -> None:
        self.yard, self.sound, self.place, self.name = yard, sound, place, name

    def remade(self, kind: str = "fp32", change: Callable[[Path], None] | None = None, own: bool = False) -> Candidate:
        """A sound candidate whose model folder was changed; asked for its own, golden answers and counts are."""
        held = self.sound[kind]
        folder = self.place / "student"
        shutil.copytree(held.student, folder)
        if change is not None:
            change(folder)
        counted = {"bytes": directory_bytes(folder)}
        if own:
            counted |= {"parameters": bench.parameters(folder), "macs": bench.macs(folder) or 0}
        student = held.evaluation.student.model_copy(update=counted)
        found = held.model_copy(
            update={"student": folder, "evaluation": held.evaluation.model_copy(update={"student": student})}
        )
        if not own:
            return found
        (self.place / "golden").mkdir()
        (self.place / "golden" / "golden.json").write_text(json.dumps(models.answers(folder)))
        return found.model_copy(update={"evaluated": self.place / "golden"})

    def told(self, kind: str = "fp32", **fields: Any) -> Candidate:
        """A sound candidate of which the evaluation says something else."""
        held = self.sound[kind]
        return held.model_copy(update={"evaluation": held.evaluation.model_copy(update=fields)})

    def student(self, kind: str = "fp32", **fields: Any) -> Candidate:
        """The same of the student's measurements."""
        return self.told(kind, student=self.sound[kind].evaluation.student.model_copy(update=fields))

    def stored(self, version: str, file: str) -> Path:
        """Where the embedded S3 has a file of a version."""
        source = self.yard.client.get_model_version(self.name, version).source.removeprefix("models:/")
        (found,) = [one for one in (self.yard.home / "s3").rglob(Path(file).name) if source in one.parts]
        return found


def graph(edit: Edit) -> Callable[[Path], None]:
    """Changes the graph of a model's folder."""

    def change(folder: Path) -> None:
        import onnx

        proto = onnx.load(folder / "model.onnx")
        edit(proto)
        (folder / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))

    return change


def said(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes the config.json of a model's folder."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        held = json.loads(path.read_text(encoding="utf-8"))
        edit(held)
        path.write_text(json.dumps(held), encoding="utf-8")

    return change


def added(name: str, content: bytes) -> Callable[[Path], None]:
    """Puts a file into a folder."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def tensor(proto: Any, name: str) -> Any:
    return next(one for one in proto.graph.initializer if one.name == name)


def revalued(name: str, change: Callable[[Any], Any]) -> Edit:
    """Gives a weight other numbers."""

    def edit(proto: Any) -> None:
        from onnx import numpy_helper

        held = tensor(proto, name)
        held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held).copy()), name))

    return edit


def swapped(proto: Any) -> None:
    """Two layers in each other's place."""
    first, second = tensor(proto, "layer0"), tensor(proto, "layer1")
    first.name, second.name = "layer1", "layer0"


def permuted(value: Any) -> Any:
    return value[np.random.default_rng(5).permutation(len(value))]


def doubled(proto: Any) -> None:
    """All of it in double precision."""
    from onnx import TensorProto, numpy_helper

    for one in proto.graph.initializer:
        if one.data_type == TensorProto.FLOAT:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float64), one.name))
    for node in proto.graph.node:
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to":
                item.i = TensorProto.DOUBLE
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def unscaled(proto: Any) -> None:
    """A rounded weight whose scale is gone."""
    held = next(one for one in proto.graph.initializer if one.name.endswith("_scale"))
    proto.graph.initializer.remove(held)


def zeroed(proto: Any) -> None:
    """A rounded weight whose scale is zero."""
    held = next(one for one in proto.graph.initializer if one.name.endswith("_scale"))
    revalued(held.name, np.zeros_like)(proto)


def outside(proto: Any) -> None:
    """A weight that lies in another file, of another folder."""
    from onnx import TensorProto

    held = tensor(proto, "head")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value="../../../../etc/passwd")


def foreign(proto: Any) -> None:
    """An operator of somebody's own library."""
    proto.opset_import.add(domain="evil.ops", version=1)
    node = next(one for one in proto.graph.node if one.op_type == "Tanh")
    node.op_type, node.domain = "RunShell", "evil.ops"


def endless(proto: Any) -> None:
    """A loop."""
    next(one for one in proto.graph.node if one.op_type == "Tanh").op_type = "Loop"


def undefined(proto: Any) -> None:
    """Answers that are no numbers, of weights that are."""
    next(one for one in proto.graph.node if one.op_type == "Tanh").op_type = "Log"
