"""Read a delivered model back in a fresh process and compare its answers with the golden ones of its evaluation."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from registry.records import STRICT


class ReloadConfig(BaseModel):
    """Settings of the reload check."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"model": "onnx|gguf", "golden": "evaluation"}
    writes: ClassVar[tuple[str, str]] = ("reload", "result")
    kind: Literal["reload"] = Field("reload", description="The stage's kind.")
    tolerance: float = Field(1e-4, gt=0, description="Largest allowed difference of an output from its golden one.")


def run(inputs: dict[str, Path], config: ReloadConfig, out: Path, seed: int) -> dict[str, Any]:
    """Recompute the golden texts with inputs["model"]; a difference above the tolerance raises RuntimeError."""
    from tasks import runtime

    if runtime.task(inputs["model"]) == "generate":
        from tasks.generate import rewrite

        return rewrite.run(inputs, config.tolerance, out)
    texts, expected = runtime.golden(inputs["golden"])
    answers = runtime.predict(inputs["model"], texts, batch=1)
    name = runtime.OUTPUTS[runtime.task(inputs["model"])]
    if answers.shape != expected.shape:
        raise RuntimeError(f"the reloaded model gives {name} {answers.shape}, the golden ones are {expected.shape}")
    worst = float(np.abs(answers - expected).max())
    if not worst <= config.tolerance:
        raise RuntimeError(f"the reloaded model differs from its golden {name} by {worst:.3g} > {config.tolerance:g}")
    result = {"max_difference": worst, "texts": len(texts), "tolerance": config.tolerance}
    (out / "result.json").write_text(json.dumps(result, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return result
