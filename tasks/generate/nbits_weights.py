"""The weights of an `lm` folder by name, in the planes and halves in which a graph of MatMulNBits holds them."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from registry.records import ShrinkError
from tasks.generate import choices, lm, nbits
from tasks.generate.nbits import Stored


class Weights:
    """A folder's weights; plain ones are read when they are asked for."""

    def __init__(self, folder: Path, split: bool) -> None:
        self.file, self.split = folder / "model.safetensors", split
        self.rounded, self.grids = lm.integers(folder)
        with safe_open(self.file, "pt") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        parts = {f"{name}.{part}" for name in self.rounded for part in ("codes", "scale", "shift")}
        self.shapes: dict[str, tuple[int, ...]] = {name: one for name, one in found.items() if name not in parts}
        self.shapes |= {name: tuple(one.codes.shape) for name, one in self.rounded.items()}
        self.count = sum(map(math.prod, self.shapes.values()))

    def __call__(self, name: str) -> Stored | NDArray[np.float32] | None:
        """A weight in planes, or as numbers; None where the model has none of this name."""
        if name in self.rounded:
            return nbits.stored(self.rounded[name], self.grids[name], self.split)
        if name not in self.shapes:
            return None
        with safe_open(self.file, "pt") as stored:
            value: NDArray[np.float32] = stored.get_tensor(name).float().numpy()
        if value.ndim > 1 and not np.abs(value).max(initial=0) <= np.finfo(np.float16).max:
            raise ShrinkError(f"the weight '{name}' is too large for half precision: quantize it, too.")
        return value

    def bytes(self) -> float:
        """About what the graph takes: planes, scales, shifts and zeros of what is rounded; halves; vectors in full."""
        bits = 0.0
        for name, shape in self.shapes.items():
            plain = 16.0 if len(shape) > 1 else 32.0
            each = choices.nbits_of(self.grids[name].name, self.split) if name in self.grids else plain
            bits += math.prod(shape) * each
        return bits / 8
