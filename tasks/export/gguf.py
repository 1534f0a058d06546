"""Export a language model as one GGUF file for llama.cpp: what was rounded keeps its integers, tokenizer included.

The bytes depend on the model alone. Transformers reads the file, too, as the very numbers that its blocks stand for.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, Task
from tasks import progress


class GgufConfig(BaseModel):
    """Settings of the GGUF export."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"model": "lm"}
    writes: ClassVar[tuple[str, str]] = ("model", "gguf")
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["gguf"] = Field("gguf", description="The export format.")
    plain: Literal["f16", "f32"] = Field("f16", description="Numbers of the matrices that are not rounded.")


def run(inputs: dict[str, Path], config: GgufConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the one model of `inputs` and look the file through; measured: its bytes, and bits per weight over all."""
    from tasks.generate import gguf_check, gguf_fit, gguf_write, runtime

    (source,) = inputs.values()
    gguf_fit.check(source)
    path = out / runtime.MODEL
    gguf_write.write(source, path, config.plain, lambda done, of: progress.report(done, of, "weights"))
    gguf_check.check(path)
    bits = gguf_fit.bits_per_weight(path)
    said = gguf_fit.described(source) | {"bits_per_weight": round(bits, 4)}
    (out / "config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {"gguf_bytes": path.stat().st_size, "bits_per_weight": said["bits_per_weight"]}
