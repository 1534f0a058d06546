"""The smoke walk of a recipe that writes: the same chain on the bottom layers, a few documents, steps and blocks."""

from typing import Any

from tasks.generate.documents import DocumentsConfig
from tasks.kinds import AnyChainConfig

FEW = {"steps": 2, "windows": 8, "calibration_blocks": 2, "calibration_length": 64, "length": 64, "batch": 2}


def stage(config: AnyChainConfig, layers: int) -> AnyChainConfig:
    """A stage made small: numbers at most as in FEW, and no more layers than the clone has."""
    held = config.model_dump()
    update: dict[str, Any] = {name: min(most, held[name]) for name, most in FEW.items() if name in held}
    if "keep_layers" in held:
        update["keep_layers"] = layers
    if isinstance(held.get("keep"), int):
        update["keep"] = min(layers, held["keep"])
    if held.get("layers"):
        update["layers"] = tuple(range(min(layers, len(held["layers"]))))
    return config.model_copy(update=update)


def data(config: DocumentsConfig) -> DocumentsConfig:
    """A few documents in short windows."""
    return config.model_copy(update={"limit": 40, "max_length": min(64, config.max_length)})
