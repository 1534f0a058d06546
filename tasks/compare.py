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


class CompareConfig(BaseModel):
    """What is compared; the flow fills it in, a recipe does not name it."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {
        "source": "torch|onnx",
        "export": "onnx|packed|openvino|executorch",
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
        return (self.export,) if self.export in {"openvino", "executorch"} else ()


def run(inputs: dict[str, Path], config: CompareConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write comparison.json, the Discrepancy that is also measured; raises RuntimeError when the export is broken."""
    texts = held_out(inputs["data"], config.rows)
    progress.report(0, 2, f"answers of the source ({config.source})")
    expected = answers.answers(config.source, inputs["source"], texts)
    progress.report(1, 2, f"answers of the export ({config.export})")
    found, runtime = answers.in_clean_process(config.export, inputs["export"], texts)
    seen = discrepancy(expected, found, runtime, embeds(inputs["source"]))
    check(seen, config)
    progress.report(2, 2, f"agreement {seen.agreement:.4f}")
    (out / "comparison.json").write_text(seen.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return seen.model_dump(mode="json")


def held_out(data: Path, limit: int) -> list[str]:
    """At most so many validation texts, spread over the split (a file may be sorted by label)."""
    from tasks.data import read_rows

    rows = read_rows(data, "validation")
    if not rows:
        raise ShrinkError("the data has no validation rows to compare an export on; give more rows or change split.")
    places = np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)
    return [str(rows[place]["text"]) for place in places]


def embeds(source: Path) -> bool:
    """Whether a torch or ONNX artifact gives embeddings."""
    path = next(path for name in ("head.json", "config.json") if (path := source / name).is_file())
    return bool(json.loads(path.read_text(encoding="utf-8")).get("task") == "embed")


def discrepancy(
    expected: NDArray[np.float32], found: NDArray[np.float32], runtime: str, embed: bool = False
) -> Discrepancy:
    """Compare logits or embeddings [texts, width] with those of the source; RuntimeError when that cannot be done.

    Agreement is the share of texts with the same likeliest label, of embeddings that with the same nearest other text.
    """
    if found.shape != expected.shape:
        raise RuntimeError(f"the export gives outputs {found.shape}, its source {expected.shape}: it is broken")
    if not np.isfinite(found).all():
        raise RuntimeError("the export gives outputs that are not finite: it is broken")
    apart = np.abs(found.astype(np.float64) - expected)
    choices = [measures.neighbours(one @ one.T, 1)[:, 0] if embed else one.argmax(axis=1) for one in (found, expected)]
    return Discrepancy(
        texts=len(found),
        largest=float(apart.max()),
        mean=float(apart.mean()),
        agreement=float((choices[0] == choices[1]).mean()),
        runtime=runtime,
    )


def check(seen: Discrepancy, config: CompareConfig) -> None:
    """Refuse an export that only changes the format and decides otherwise all the same."""
    if config.exact and seen.agreement < LEAST_AGREEMENT:
        raise RuntimeError(
            f"export/{config.method} decides like its source on {seen.agreement:.1%} of {seen.texts} held-out texts "
            f"(least {LEAST_AGREEMENT:.0%}), its outputs are up to {seen.largest:.3g} apart: it is broken"
        )
