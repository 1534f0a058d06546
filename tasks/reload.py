"""Read a delivered model back in a fresh process: is it sound, does it answer as it did, does it score as it did?

Every demand is one Check of the result: a model that fails one is refused, and only what has nothing to do with the
model (a full disk, a missing library) raises. tasks/sound.py looks an ONNX folder through, tasks/generate/sound.py a
GGUF file; scores are computed again where the rows that the evaluation was made on are at hand.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from registry.records import STRICT, Check, Evaluation
from tasks.embed.evaluate import EmbedEvaluateConfig
from tasks.evaluate import EvaluateConfig
from tasks.generate.evaluate import GenerateEvaluateConfig

Judged = Annotated[EvaluateConfig | EmbedEvaluateConfig | GenerateEvaluateConfig, Field(discriminator="task")]
SLOWER = 3.0  # times the declared median at which the fastest of some answers is no matter of a busy machine
TIMED = 30  # answers that are timed


class ReloadConfig(BaseModel):
    """Settings of the reload check."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"model": "onnx|gguf", "golden": "evaluation"}
    writes: ClassVar[tuple[str, str]] = ("reload", "result")
    kind: Literal["reload"] = Field("reload", description="The stage's kind.")
    tolerance: float = Field(1e-4, gt=0, description="Largest allowed difference of an output from its golden one.")
    score_tolerance: float = Field(
        0.002,
        gt=0,
        description="Largest allowed difference of a score from the evaluation's; relative of a perplexity.",
    )
    evaluate: Judged | None = Field(None, description="How it was judged; null: scores are not computed again.")


def run(inputs: dict[str, Path], config: ReloadConfig, out: Path, seed: int) -> dict[str, Any]:
    """Every check of inputs["model"] beside inputs["golden"], its evidence; ["data"] and ["teacher"] where at hand."""
    found = list(checks(inputs, config))
    golden = next((one for one in found if one.name == "golden"), None)
    result = {
        "max_difference": golden.value if golden else None,
        "tolerance": config.tolerance,
        "checks": [one.model_dump(mode="json") for one in found],
    }
    (out / "result.json").write_text(json.dumps(result, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return result


def checks(inputs: dict[str, Path], config: ReloadConfig) -> Iterator[Check]:
    """The checks one after the other; what would be opened after a failed one is left alone."""
    from tasks import runtime, sound

    model = inputs["model"]
    first = sound.config(model)
    yield first
    if not first.passed:
        return
    evaluation = evaluation_of(inputs["golden"])
    if runtime.task(model) == "generate":
        from tasks.generate import sound as written

        yield from written.checks(model, inputs["golden"], evaluation, config.tolerance)
    else:
        yield from of_graph(inputs, evaluation, config)
    yield from scored(inputs, evaluation, config)


def evaluation_of(evidence: Path) -> Evaluation | None:
    """The evaluation that lies with the golden answers; None of a stage's own artifact, which holds no speeds."""
    path = evidence / "evaluation.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Evaluation.model_validate(held.get("evaluation", held))
    except (FileNotFoundError, ValidationError):  # evidence was looked through before: there it is whole
        return None


def of_graph(inputs: dict[str, Path], evaluation: Evaluation | None, config: ReloadConfig) -> Iterator[Check]:
    """The checks of an ONNX folder."""
    import onnx

    from tasks import runtime, sound

    model, said = inputs["model"], runtime.settings(inputs["model"])
    try:
        proto = onnx.load(model / "model.onnx", load_external_data=False)
    except Exception as error:  # protobuf's
        yield sound.check("graph", False, f"model.onnx cannot be read: {error!s:.120}")
        return
    facts = inputs["data"] / "data.json" if "data" in inputs else None
    wanted = json.loads(facts.read_text(encoding="utf-8"))["labels"] if facts else None
    output = runtime.OUTPUTS[runtime.task(model)]
    looks: dict[str, Callable[[], Check]] = {
        "scales": lambda: sound.scales(proto),
        "dtype": lambda: sound.dtype(proto),
        "graph": lambda: sound.graph(proto, output),
        "weights": lambda: sound.finite(proto),
    }
    if runtime.task(model) == "classify":
        looks["labels"] = lambda: sound.labels(proto, said, wanted)
    static = [one for name, look in looks.items() for one in asked(name, look)]
    yield from static
    if not all(one.passed for one in static):
        return
    yield from asked("tokenizer", lambda: sound.tokenizer(model, runtime.session(model)))
    yield from sound.counted(model, evaluation)
    yield from asked("golden", lambda: golden(inputs, config.tolerance))
    yield from asked("speed", lambda: speed(inputs, evaluation))


def asked(name: str, demand: Callable[[], Check]) -> Iterator[Check]:
    """A check of a model that has to run for it: what the model itself breaks is the check's failure."""
    from tasks import sound

    try:
        yield demand()
    except (MemoryError, OSError):
        raise
    except Exception as error:
        yield sound.check(name, False, f"it cannot be asked: {' '.join(str(error).split())[:160]}")


def golden(inputs: dict[str, Path], tolerance: float) -> Check:
    """The golden texts are answered as the evaluation stored it."""
    from tasks import runtime, sound

    texts, expected = runtime.golden(inputs["golden"])
    answers = runtime.predict(inputs["model"], texts, batch=1)
    name = runtime.OUTPUTS[runtime.task(inputs["model"])]
    if answers.shape != expected.shape or not len(expected):
        return sound.check("golden", False, f"its {name} are {answers.shape}, the golden ones {expected.shape}")
    worst = float(np.abs(answers - expected).max())
    fits = worst <= tolerance  # never of NaN
    verb = "differs from its golden" if not fits else "gives its golden"
    said = f"on {len(texts)} texts it {verb} {name} to {worst:.3g}, allowed is {tolerance:g}"
    return sound.check("golden", fits, said, worst if np.isfinite(worst) else None, tolerance)


def speed(inputs: dict[str, Path], evaluation: Evaluation | None) -> Check:
    """One text is answered in not much more than the declared median; the fastest answer counts, as others wait."""
    from tasks import bench, sound

    if evaluation is None:
        return sound.check("speed", True, "no speed was declared")
    call = bench.caller(inputs["model"])
    best = np.inf
    for _ in range(TIMED):
        start = time.perf_counter()
        call([bench.TEXT])
        best = min(best, (time.perf_counter() - start) * 1e3)
    told = evaluation.student.p50_ms
    said = f"its fastest answer takes {best:.3g} ms, the declared median is {told:.3g} ms; {SLOWER:g} times is allowed"
    return sound.check("speed", best <= SLOWER * told, said, best, SLOWER * told)


def scored(inputs: dict[str, Path], evaluation: Evaluation | None, config: ReloadConfig) -> Iterator[Check]:
    """The evaluation's scores come out again of the delivered bytes, on the same rows; where these lack, it says so."""
    from tasks import rescore, sound

    if evaluation is None or config.evaluate is None:
        return
    judged = config.evaluate
    if lacks := rescore.lacking(inputs, judged):
        yield sound.check("score", True, f"{rescore.NOT}: {lacks} not on this machine")
        return
    yield from asked("score", lambda: rescore.check(inputs, judged, evaluation, config.score_tolerance))
