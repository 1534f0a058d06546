"""The teacher's answers on windows of the training text, computed once: its likeliest pieces behind every token.

Of 49,152 logits a token the 32 likeliest say nearly all; kept are their numbers, the logs of their chances in half
precision and that of the mass of all others, so that a student of any size can learn from them without the teacher
(tasks/generate/answers.py). One batch of logits is in memory at a time.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task


class LabelTopKConfig(BaseModel):
    """Who answers, on how much text, and how much of each answer is kept."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    writes: ClassVar[tuple[str, str]] = ("labels", "top_k")
    kind: Literal["label"] = Field("label", description="The stage's kind.")
    method: Literal["top_k"] = Field("top_k", description="A language model's likeliest next pieces.")
    model: Literal["teacher", "student"] = Field(
        default="teacher", description="Who answers: the teacher, or the student as it is then, before it is cut."
    )
    k: int = Field(default=32, ge=1, le=1024, description="Likeliest pieces kept of each answer.")
    length: int = Field(default=128, ge=2, description="Tokens of a window.")
    windows: int = Field(default=256, ge=1, description="Windows of training text that are answered, at most.")
    batch: int = Field(default=4, ge=1, description="Windows that are answered at once; memory grows with it.")

    @property
    def reads(self) -> dict[str, str]:
        """Who answers, and the text."""
        return {self.model: "lm", "data": "rows"}


def run(inputs: dict[str, Path], config: LabelTopKConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write top_k.safetensors and top_k.json; measured: windows, tokens, the mean mass of the kept pieces."""
    import torch
    from safetensors.torch import save_file

    from tasks import progress
    from tasks.generate import answers, lesson, lm

    model, tokenizer = lm.load(inputs[config.model]), lm.load_tokenizer(inputs[config.model])
    lesson.check_length(model, config.length)
    if config.k > model.config.vocab_size:
        raise ShrinkError(f"k is {config.k} but the model knows {model.config.vocab_size} pieces only: lower it.")
    ids = lesson.windows(tokenizer, lesson.texts(inputs["data"], "train"), config.length, config.windows, seed)
    pieces = torch.zeros(*ids.shape, config.k, dtype=torch.int32)
    chances, rest = torch.zeros(pieces.shape, dtype=torch.half), torch.zeros(ids.shape, dtype=torch.half)
    with torch.inference_mode():
        for start in range(0, len(ids), config.batch):
            part = slice(start, start + config.batch)
            logits = model(input_ids=ids[part], use_cache=False).logits
            pieces[part], chances[part], rest[part] = answers.top(logits, config.k)
            progress.report(min(start + config.batch, len(ids)), len(ids), "windows")
    save_file({"pieces": pieces, "chances": chances, "rest": rest}, out / answers.FILE)
    facts = answers.Facts(length=config.length, windows=len(ids), seed=seed, k=config.k, sha256=lesson.digest(ids))
    (out / answers.FACTS).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return {"windows": len(ids), "tokens": ids.numel(), "mass": float(1 - rest.float().exp().mean())}
