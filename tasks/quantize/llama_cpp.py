"""Rounds a decoder by llama.cpp's own quantizer (an extra) to K-quants and the like, and leaves its GGUF file.

Plain numbers are written as a GGUF file in full, which llama.cpp then makes smaller; errors are weighed by an
importance matrix that is computed here (tasks/generate/imatrix.py). What comes out is what is served: no export behind.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from registry.records import ShrinkError
from tasks import data, progress
from tasks.generate import header, llama_types
from tasks.generate.choices import CalibrationConfig

if TYPE_CHECKING:
    from tasks.generate.llama_quantize import Importance


class LlamaCppConfig(CalibrationConfig):
    """Which of llama.cpp's types a decoder is stored in, and whether inputs count by their size."""

    reads: ClassVar[dict[str, str]] = {"student": "lm|gguf", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "gguf")
    needs: ClassVar[tuple[str, ...]] = ("llama_cpp",)
    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    method: Literal["llama_cpp"] = Field("llama_cpp", description="The quantisation method.")
    type: llama_types.Name = Field(
        description="llama.cpp's name of the mixture; rows that blocks of 256 do not divide get blocks of 32 (Q4_K: "
        "Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, Q2_K and Q3_K: Q4_0, IQ4_XS: IQ4_NL)."
    )
    importance: bool = Field(
        True, description="Weigh errors by the mean square of each input on training text (an importance matrix)."
    )


def run(inputs: dict[str, Path], config: LlamaCppConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the `gguf` folder; measured: its bytes, bits_per_weight over all weights, weights by kind of block."""
    import torch

    from tasks.generate import gguf_check, gguf_fit, gguf_write, llama_quantize, runtime

    student, file = inputs["student"], out / runtime.MODEL
    check(student, config.type)
    about = json.loads((student / "config.json").read_text(encoding="utf-8"))
    importance = importance_of(inputs, config, seed) if config.importance else None
    with tempfile.TemporaryDirectory(dir=out) as scratch:  # inside, so that a kill leaves nothing
        whole = student / runtime.MODEL
        if not whole.is_file():
            about, whole = gguf_fit.described(student), Path(scratch) / "whole.gguf"
            gguf_write.write(student, whole, "f32", lambda done, of: progress.report(done, of, "weights written"))
        llama_quantize.quantize(
            whole, file, config.type, importance, torch.get_num_threads(),
            lambda done, of: progress.report(done, of, "weights rounded"),
        )  # fmt: skip
    gguf_check.check(file)
    about |= {"bits_per_weight": round(gguf_fit.bits_per_weight(file), 4)}
    (out / "config.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    told = {"gguf_bytes": file.stat().st_size, "bits_per_weight": about["bits_per_weight"]}
    return told | {"weights": gguf_fit.weights_by_block(file)}


def check(student: Path, name: str) -> None:
    """Refuse a student that is rounded already, is no family of GGUF's, or has rows that the type does not fit."""
    from tasks.generate import gguf_fit, runtime

    file, rounded = student / runtime.MODEL, (student / "grids.json").is_file()
    if file.is_file():
        rounded = bool(set(gguf_fit.weights_by_block(file)) - set(llama_types.PLAIN))
    if rounded:
        raise ShrinkError(
            "the student is rounded already, and llama.cpp would round what is left of it: put quantize/llama_cpp in "
            "the place of the stage that rounded it."
        )
    gguf_fit.check(student)
    llama_types.check(name, header.look(student))


def importance_of(inputs: dict[str, Path], config: LlamaCppConfig, seed: int) -> "Importance":
    """The importance matrix by GGUF's names; kept beside a stage that is killed."""
    from tasks import checkpoint
    from tasks.generate import gguf_fit, imatrix, lesson, runtime, text, walk

    with checkpoint.parts() as at:
        found = checkpoint.part(at, "importance")
        if found is None:
            model, tokenizer = runtime.loaded(inputs["student"])
            lesson.check_length(model, config.calibration_length, "calibration_length")
            texts = [row["text"] for row in data.read_rows(inputs["data"], "train")]
            ids = text.blocks(tokenizer, texts, config.calibration_length, config.calibration_blocks, seed)
            called = gguf_fit.namer(model.config.model_type, model.config.num_hidden_layers)
            found = {called(name): one for name, one in imatrix.of(model, ids, config.batch).items()}
            checkpoint.keep_part(at, "importance", found)
            del model
            walk.give_back()
    return {name: one.numpy() for name, one in found.items()}
