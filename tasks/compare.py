"""How far an export's answers are from its source's: reloaded by its own runtime in a clean process, on held-out texts.

Run by the flow after every `export` and `quantize` stage. A deviation that says "broken" (no number, another shape, or
an export without quantisation that decides otherwise) raises; what quantisation costs is reported.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT, Discrepancy, ShrinkError
from tasks import answers, progress
from tasks.answers import Format
from tasks.embed import measures

LEAST_AGREEMENT = 0.99  # of an export that only changes the format: rounding alone may turn a tie
LEAST_COSINE = 0.999  # the same of embeddings


class CompareConfig(BaseModel):
    """What is compared; the flow fills it in, a recipe does not name it."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {
        "source": "torch|onnx|lm|gguf|w8a8",
        "export": "onnx|packed|openvino|executorch|gguf|llama_cpp|compressed_tensors|matmul_nbits|w8a8",
        "data": "rows",
    }
    writes: ClassVar[tuple[str, str]] = ("comparison", "comparison")
    kind: Literal["compare"] = Field("compare", description="The stage's kind.")
    method: str = Field(description="The method of the stage that made the export.")
    source: Format = Field(description="The source's format.")
    export: Format = Field(description="The export's format.")
    exact: bool = Field(description="Nothing was quantised: it must decide like its source.")
    rows: int = Field(256, ge=1, description="Validation texts, spread over the split.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The extra that the export's runtime is."""
        return (self.export,) if self.export in {"openvino", "executorch", "llama_cpp", "compressed_tensors"} else ()


def run(inputs: dict[str, Path], config: CompareConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write comparison.json, the Discrepancy that is also measured; raises RuntimeError when the export is broken."""
    texts = held_out(inputs["data"], config.rows)
    progress.report(0, 2, f"answers of the source ({config.source})")
    expected = answers.answers(config.source, inputs["source"], texts)
    progress.report(1, 2, f"answers of the export ({config.export})")
    found, runtime = answers.in_clean_process(config.export, inputs["export"], texts)
    seen = discrepancy(expected, found, runtime, about(inputs["export"]))
    check(seen, config)
    progress.report(2, 2, f"at most {seen.largest:.2g} apart")
    (out / "comparison.json").write_text(seen.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return seen.model_dump(mode="json")


def about(export: Path) -> dict[str, Any]:
    """What an artifact says that it answers: head.json of torch's, config.json of the others.

    A language model's own config.json says nothing of a task.
    """
    head = export / "head.json"
    if head.is_file():
        said: dict[str, Any] = json.loads(head.read_text(encoding="utf-8"))
        return said
    own: dict[str, Any] = json.loads((export / "config.json").read_text(encoding="utf-8"))
    return {"task": "generate"} | own


def held_out(data: Path, limit: int) -> list[Any]:
    """At most so many validation texts (or pairs), spread over the split: a file may be sorted by label."""
    from tasks.data import read_rows

    rows = read_rows(data, "validation")
    if not rows:
        raise ShrinkError("the data has no validation rows to compare an export on; give more rows or change split.")
    places = np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)
    return [rows[place]["text"] for place in places]


def discrepancy(
    expected: NDArray[np.float32], found: NDArray[np.float32], runtime: str, head: dict[str, Any]
) -> Discrepancy:
    """Compare logits [texts, labels] or embeddings [texts, width] with the source's, by what the head says they are.

    Raises RuntimeError when they cannot be compared.
    """
    if found.shape != expected.shape:
        raise RuntimeError(f"the export gives answers {found.shape}, its source {expected.shape}: it is broken")
    if not np.isfinite(found).all():
        raise RuntimeError("the export gives answers that are not finite: it is broken")
    apart = np.abs(found.astype(np.float64) - expected)
    return Discrepancy(
        texts=len(found),
        unit="token" if head.get("task") == "generate" else "text",
        largest=float(apart.max()),
        mean=float(apart.mean()),
        agreement=agreement(expected, found, head),
        cosine=least_cosine(expected, found) if head.get("task") == "embed" else None,
        runtime=runtime,
    )


def agreement(expected: NDArray[np.float32], found: NDArray[np.float32], head: dict[str, Any]) -> float:
    """Share of the texts with the same likeliest label; of several labels a text with the same ones.

    Of embeddings that of the texts with the same nearest other text, of models that write that of the tokens with the
    same likeliest next one.
    """
    if head.get("task") == "embed":
        near = [measures.neighbours(one @ one.T, 1)[:, 0] for one in (expected, found)]
        return float((near[0] == near[1]).mean())
    if head.get("multi_label"):  # a label is given where its logit lies above 0
        return float(((found > 0) == (expected > 0)).all(axis=1).mean())
    return float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())


def least_cosine(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The smallest cosine between the two embeddings of a text."""
    one, other = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


def check(seen: Discrepancy, config: CompareConfig) -> None:
    """Refuse an export that only changes the format and decides otherwise all the same."""
    if not config.exact:
        return
    if seen.agreement < LEAST_AGREEMENT:
        raise RuntimeError(
            f"export/{config.method} decides like its source on {seen.agreement:.1%} of {seen.texts} held-out "
            f"{seen.unit}s (least {LEAST_AGREEMENT:.0%}), its outputs are up to {seen.largest:.3g} apart: it is broken"
        )
    if seen.cosine is not None and not seen.cosine >= LEAST_COSINE:
        raise RuntimeError(
            f"export/{config.method} gives embeddings whose cosine with the source's goes down to {seen.cosine:.4f} "
            f"(least {LEAST_COSINE}) on {seen.texts} held-out texts: it is broken"
        )
