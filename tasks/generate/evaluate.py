"""Judge a student that writes beside its teacher and the floor: on held-out documents, in chat, on questions, by speed.

The floor is what anybody has for nothing: the teacher rounded to four bits by the plain formula. Perplexity is told for
a token of the teacher's, whichever tokenizer a model has, so that all three are divided by the same number; and for a
byte, which compares across teachers, too.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from registry.records import STRICT, WRITING, Evaluation, ModelScore, ServingEnergy, Speed, Task
from tasks import champion, layout, progress
from tasks.evaluate import ROLES, model_bytes, quality, write_json
from tasks.generate import beside
from tasks.generate.evaluation import Questions
from tasks.generate.judging import STEPS, Seen, documents, judged
from tasks.generate.runtime import Opened, Runtime

THREADS = (1, 2)  # that speed is measured with
GOLDEN_TOKENS = 16
GOLDEN = (
    "The train to the coast leaves at",
    "Once upon a time there was a clockmaker who",
    "Water boils when",
    "def area(width, height):",
    "The three largest cities of the country are",
    "Dear Madam, thank you for your letter of",
    "1, 2, 3, 4,",
    "It was not the first time that the bridge",
    "Größer als Zürich ist",
    "Жили-были старик",
)


class GenerateEvaluateConfig(BaseModel):
    """Settings of the evaluation of models that write."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"teacher": "gguf", "student": "gguf", "floor": "gguf", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("evaluation", "evaluation")
    kind: Literal["evaluate"] = Field("evaluate", description="The stage's kind.")
    task: Literal["generate"] = Field("generate", description="What the recipe's models are for.")
    runtime: Runtime = Field("transformers", description="What runs all three models; llama_cpp is an extra.")
    split: Literal["test", "validation"] = Field(
        "test", description="Documents to judge on; test is for the last word."
    )
    text_bytes: int = Field(
        50_000, ge=1000, description="Bytes of text at most of each domain, documents spread over it; 4 to 5 a token."
    )
    prompts: int = Field(40, ge=0, le=40, description="Shipped chat prompts at most, on which answers are compared.")
    answer: int = Field(32, ge=1, le=4096, description="Tokens at most of an answer to a chat prompt.")
    questions: tuple[Questions, ...] = Field(
        ("facts", "endings"), description="Shipped questions with answers to choose from, asked of all three models."
    )
    bootstrap: int = Field(
        2000, ge=100, le=1_000_000, description="Paired resamples of the documents behind every interval."
    )
    rounds: int = Field(5, ge=1, le=10_000, description="Timed rounds a model and number of threads.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The extra that the runtime is."""
        return ("llama_cpp",) if self.runtime == "llama_cpp" else ()


def run(inputs: dict[str, Path], config: GenerateEvaluateConfig, out: Path, seed: int) -> dict[str, Any]:
    """Read, ask and time all three models, compare them, and write the evaluation artifact.

    It holds sums of each document and never a text, nor what was answered to one of the user's.
    """
    import torch
    from safetensors.numpy import save_file

    from tasks.generate import chatting, reading, runtime

    threads = torch.get_num_threads()
    asked = [*ROLES, *(["champion"] if champion.comparable(inputs) else [])]
    opened = {role: runtime.open_model(inputs[role], config.runtime, threads) for role in asked}
    models = {role: reading.Model(one, reading.first_token(inputs[role])) for role, one in opened.items()}
    seen = judged(models, inputs["data"], config, seed)
    sample = chatting.sample(opened["teacher"], opened["student"])
    write_golden(opened["student"], config.runtime, out / "golden.json", inputs["student"])
    behaved = beside.behaved(inputs, opened["teacher"], opened["student"])
    del models, opened
    result = evaluation(inputs, seen, config).model_copy(update={"sample": sample, "behaviour": behaved})
    progress.report(STEPS - 1, STEPS, "energy of serving")
    result = result.model_copy(update={"serving": served(inputs, config, result)})
    result = result.model_copy(update=beside.found(inputs, seen, config, seed))
    write_json(out / "evaluation.json", quality(result))
    save_file({name: one for name, one in seen.values.items() if name != "nats.champion"}, out / "values.safetensors")
    progress.report(STEPS, STEPS, f"retention {result.retention.point:.4f}")
    return result.model_dump(mode="json")


def evaluation(inputs: dict[str, Path], seen: Seen, config: GenerateEvaluateConfig) -> Evaluation:
    """Put quality, sizes and speeds together; perplexity stands for the whole."""
    speed, reference = speeds(inputs, config)
    models = {
        role: ModelScore(bytes=model_bytes(inputs[role]), **counted(inputs[role]), **seen.kl[role], **speed[role])
        for role in ROLES
    }
    whole = seen.measures["perplexity"].model_dump(include={"retention", "lift_retained", "win_over_floor"})
    top1 = seen.measures.get("top1_agreement")
    return Evaluation(
        examples=seen.examples,
        task="generate",
        metric="perplexity",
        measures={name: seen.measures[name] for name in WRITING if name in seen.measures},
        left_out=seen.left_out,
        runtime=config.runtime,
        reference=reference,
        flips_to_wrong=None,
        flips_to_right=None,
        agreement=top1.student if top1 else None,
        **models,
        **whole,
    )


def counted(directory: Path) -> dict[str, Any]:
    """Weights, multiply-adds of a token's matrix products (attention over what came before left out), bits a weight."""
    about = layout.read_json(directory / "config.json")
    file = directory / "model.gguf"
    if not file.is_file():
        return {"parameters": None, "macs": None, "bits_per_weight": about.get("bits_per_weight")}
    from tasks.generate import gguf_check

    shapes = gguf_check.check(file).tensors
    sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
    tables = {"position_embd.weight"} | ({"token_embd.weight"} if "output.weight" in sizes else set())
    products = sum(sizes[name] for name, shape in shapes.items() if len(shape) > 1 and name not in tables)
    return {
        "parameters": sum(sizes.values()),
        "macs": products,
        "bits_per_weight": about.get("bits_per_weight"),
    }


def speeds(
    inputs: dict[str, Path], config: GenerateEvaluateConfig
) -> tuple[dict[str, dict[str, Any]], tuple[Speed, ...]]:
    """Each role's fields of speed and memory, and the teacher's speeds in float32 in transformers."""
    from tasks.generate import speed

    text = " ".join(documents(inputs["data"], config.split, config.text_bytes))
    subjects = {role: speed.Subject(inputs[role], config.runtime) for role in ROLES}
    timed = []
    for step, threads in enumerate(THREADS):
        progress.report(4 + step, STEPS, f"timing, threads: {threads}")
        reference = {} if config.runtime == "transformers" else {"": speed.Subject(inputs["teacher"], "transformers")}
        timed.append(speed.measure({**subjects, **reference}, text, threads, config.rounds))
    progress.report(6, STEPS, "memory")
    found = {
        role: {
            "p50_ms": timed[0][role].token_ms[0],
            "p95_ms": timed[0][role].token_ms[1],
            "throughput": timed[0][role].speed.prefill_tokens_per_s,
            "peak_rss_mb": speed.peak_rss_mb(subjects[role]),
            "speeds": tuple(one[role].speed for one in timed),
        }
        for role in ROLES
    }
    return found, tuple(one.get("", one["teacher"]).speed for one in timed)


def served(inputs: dict[str, Path], config: GenerateEvaluateConfig, result: Evaluation) -> ServingEnergy:
    """What teacher and student take to write, on prompts from the judged documents."""
    from tasks.generate import speed, windows

    text = " ".join(documents(inputs["data"], config.split, config.text_bytes))
    subjects = {role: speed.Subject(inputs[role], config.runtime) for role in ("teacher", "student")}
    macs = {"teacher": result.teacher.macs, "student": result.student.macs}
    return windows.of_writers(subjects, text, config.rounds, macs)


def write_golden(student: Opened, runtime: Runtime, path: Path, directory: Path) -> None:
    """Made-up prompts with what the student writes behind them, and the log-probability of each token it wrote.

    Beside them how the student's file turns a chat into a text, by digest, and how many tokens it reads.
    """
    from tasks.generate import multiple_choice, rewrite

    prompts = [student.ids(text) for text in GOLDEN]
    ids = [list(student.stream(prompt, GOLDEN_TOKENS)) for prompt in prompts]
    found = [
        multiple_choice.log_probabilities(student.logits(prompt + own)[len(prompt) - 1 : -1], own).tolist()
        if own
        else []
        for prompt, own in zip(prompts, ids, strict=True)
    ]
    write_json(
        path, {"prompts": list(GOLDEN), "ids": ids, "logprobs": found, "runtime": runtime} | rewrite.manner(directory)
    )
