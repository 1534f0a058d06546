"""What a model.safetensors holds, read from its header without torch, and whether its numbers are numbers."""

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.records import ShrinkError

FLOATS = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}  # a kind of float and its bits as integers
EXPONENTS = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "F16": 0x1F << 10, "BF16": 0xFF << 7}  # all ones: NaN or infinity
PIECE = 1 << 22  # numbers looked at together


def header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors' bytes begin, and {tensor: its entry}; ShrinkError when the file is missing or damaged."""
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.bin")) + sorted(
            other.name for other in path.parent.glob("*.safetensors.index.json")
        )
        found = f" ({others[0]} is there)" if others else ""
        raise ShrinkError(
            f"{path.name} is missing in the model folder{found}: "
            "save the weights as one safetensors file, as model.save_pretrained(folder) does."
        )
    from safetensors import safe_open

    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            entries = json.loads(stream.read(min(length, size)))
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        fine = all(isinstance(entry["dtype"], str) and spans(entry) for entry in tensors.values())
    except (struct.error, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise ShrinkError(f"{path.name} is no safetensors file: copy or convert the weights again.")
    if end != size:
        raise ShrinkError(f"{path.name} has {size} bytes but its header says {end}: copy it again.")
    try:
        safe_open(path, framework="np")  # it checks that the tensors fill the file without overlap
    except Exception as error:
        said = f"{path.name} is no safetensors file ({error!s:.120})"
        raise ShrinkError(f"{said}: copy or convert the weights again.") from None
    return 8 + length, tensors


def spans(entry: dict[str, Any]) -> bool:
    """Whether a tensor's shape and its place in the file agree, as far as its kind of number is known here."""
    begin, end = entry["data_offsets"]
    count = math.prod(entry["shape"])
    width = int(FLOATS.get(entry["dtype"], "<u0")[2:])
    return 0 <= begin <= end and all(type(one) is int for one in entry["shape"]) and width * count in {0, end - begin}


def check_numbers(path: Path, names: Iterable[str]) -> None:
    """ShrinkError for the first of these tensors that is no float, or holds a NaN or an infinity."""
    import numpy as np

    start, tensors = header(path)
    for name in names:
        kind, (begin, end) = tensors[name]["dtype"], tensors[name]["data_offsets"]
        if kind not in FLOATS:
            raise ShrinkError(f"model.safetensors holds {name} as {kind}: save the model as float32 or float16.")
        if begin == end:
            continue
        exponent = np.dtype(FLOATS[kind]).type(EXPONENTS[kind])
        bits = np.memmap(path, FLOATS[kind], "r", start + begin, ((end - begin) // np.dtype(FLOATS[kind]).itemsize,))
        for place in range(0, len(bits), PIECE):
            wrong = np.count_nonzero((bits[place : place + PIECE] & exponent) == exponent)
            if wrong:
                raise ShrinkError(
                    f"model.safetensors holds NaN or infinity in {name}: take a checkpoint from before that."
                )
