"""Export an encoder or a language model with zeros to a smaller safetensors file: a bit a number, no value for a zero.

A tensor becomes NAME.bitmask (a bit a number, row by row, the first in a byte's highest bit, as numpy.packbits has it)
and NAME.values (what is not 0, in order) where that is smaller; the others stay as they are. What was packed, and in
which shape, stands in the file's metadata. Nothing runs on this file: `restore` makes the artifact again.
"""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

DENSE, PACKED = "model.safetensors", "model.packed.safetensors"
KEY = "shrink.bitmask"  # the only one: safetensors writes several in no fixed order, and digests need one
AGAIN = "export the model again."


class PackedConfig(BaseModel):
    """The bytes of a model with many zeros, for storage and transport, beside what is served and judged, which is the
    recipe's other export; it lies in `out` of this stage's directory in .shrink/runs.
    """

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("classify", "embed", "generate")
    reads: ClassVar[dict[str, str]] = {"student": "torch|lm"}
    writes: ClassVar[tuple[str, str]] = ("packed", "packed")
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["packed"] = Field("packed", description="The export format.")


def run(inputs: dict[str, Path], config: PackedConfig, out: Path, seed: int) -> dict[str, Any]:
    """Pack inputs["student"] and read it back; measured: bytes of both files, tensors packed, zeros' share in them."""
    source = inputs["student"]
    weights, about = load(source / DENSE)
    shapes = save(out / PACKED, weights, about)
    copy_others(source, out, DENSE)
    again, _ = read(out / PACKED)
    if not same(again, weights):
        raise RuntimeError(f"{PACKED} does not give back the weights that it was made of")
    kept = sum(int((bits(weights[name]) != 0).sum()) for name in shapes)
    total = sum(weights[name].size for name in shapes)
    return {
        "dense_bytes": (source / DENSE).stat().st_size,
        "packed_bytes": (out / PACKED).stat().st_size,
        "packed_tensors": len(shapes),
        "packed_zeros": 1 - kept / total if total else 0.0,
    }


def restore(directory: Path, out: Path) -> None:
    """Write the artifact that was packed into a directory; raises ShrinkError when the file is damaged."""
    from safetensors.numpy import save_file

    weights, about = read(directory / PACKED)
    save_file(weights, out / DENSE, metadata=about or None)
    copy_others(directory, out, PACKED)


def save(path: Path, weights: "Arrays", about: dict[str, str]) -> dict[str, list[int]]:
    """Write tensors, each packed where that is smaller; {packed tensor: its shape}."""
    import numpy as np
    from safetensors.numpy import save_file

    stored: Arrays = {}
    shapes = {}
    for name, value in weights.items():
        held = bits(value) != 0  # -0.0 and NaN are values like others: what is read back has the same bits
        if math.ceil(value.size / 8) + int(held.sum()) * value.itemsize >= value.nbytes:
            stored[name] = value
            continue
        shapes[name] = list(value.shape)
        stored[f"{name}.bitmask"], stored[f"{name}.values"] = np.packbits(held), value.reshape(-1)[held]
    header = {"version": 1, "shapes": shapes, "metadata": about}
    save_file(stored, path, metadata={KEY: json.dumps(header, sort_keys=True)})
    return shapes


def read(path: Path) -> tuple["Arrays", dict[str, str]]:
    """The tensors of a packed file and the metadata that they had; raises ShrinkError naming what does not fit."""
    weights, metadata = load(path)
    try:
        header = json.loads(metadata[KEY])
        about, shapes = dict(header["metadata"]), {name: [*map(int, one)] for name, one in header["shapes"].items()}
        fine = header["version"] == 1 and all(size >= 0 for shape in shapes.values() for size in shape)
    except (ValueError, LookupError, TypeError, AttributeError):
        fine = False
    if not fine:
        raise ShrinkError(f"{path.name} does not say how it was packed: {AGAIN}")
    for name, shape in shapes.items():
        parts = [weights.pop(f"{name}.{part}", None) for part in ("bitmask", "values")]
        weights[name] = unpacked(f"{path.name}: {name}", parts, shape)
    return weights, about


def unpacked(where: str, parts: "list[NDArray[Any] | None]", shape: list[int]) -> "NDArray[Any]":
    """A tensor of a shape from its bitmask and its values; raises ShrinkError when these three disagree."""
    import numpy as np

    bitmask, values = parts
    count = math.prod(shape)
    if bitmask is None or values is None or bitmask.dtype != np.uint8 or bitmask.ndim != 1 or values.ndim != 1:
        raise ShrinkError(f"{where} lacks its bitmask or its values: {AGAIN}")
    if len(bitmask) != math.ceil(count / 8):
        raise ShrinkError(
            f"{where} has {len(bitmask)} bytes of bitmask but {shape} needs {math.ceil(count / 8)}: {AGAIN}"
        )
    held = np.unpackbits(bitmask).astype(bool)
    if held[count:].any() or int(held.sum()) != len(values):
        raise ShrinkError(f"{where} has {len(values)} values but its bitmask has {int(held.sum())} bits set: {AGAIN}")
    flat = np.zeros(count, dtype=values.dtype)
    flat[held[:count]] = values
    return flat.reshape(shape)


def load(path: Path) -> tuple["Arrays", dict[str, str]]:
    """The tensors and the metadata of a safetensors file; raises ShrinkError when it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as stored:
            names = list(stored.keys())
            return {name: stored.get_tensor(name) for name in names}, dict(stored.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ShrinkError(f"{path.name} cannot be read ({str(error)[:120]}): {AGAIN}") from None


def bits(value: "NDArray[Any]") -> "NDArray[Any]":
    """The numbers of a tensor, one after the other, as unsigned integers of their size."""
    import numpy as np

    return np.ascontiguousarray(value).reshape(-1).view(f"u{value.itemsize}")


def same(one: "Arrays", other: "Arrays") -> bool:
    """Whether tensors are the same by name: kind of number, shape, bits."""
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and bool((bits(value) == bits(other[name])).all())
        for name, value in one.items()
    )


def copy_others(source: Path, out: Path, but: str) -> None:
    """Carry tokenizer, head and configuration from one artifact to the next."""
    for path in sorted(source.iterdir()):
        if path.name != but:
            shutil.copyfile(path, out / path.name)
