"""The model card: Markdown with Hugging Face metadata; what is unknown is said to be unknown, never 0."""

from collections.abc import Mapping
from typing import Any

import yaml

from registry.records import Band, Evaluation, Footprint, ModelScore, Verdict


def render(
    name: str,
    recipe: Mapping[str, Any],
    evaluation: Evaluation,
    verdict: Verdict,
    footprint: Footprint,
    licences: Mapping[str, str],
    grams: float | None = None,
) -> str:
    """A model's card as Markdown; `grams` are the emissions of making it, null while they are unknown."""
    parts = [
        _metadata(name, evaluation, licences, grams),
        f"# {_text(name)}",
        _summary(evaluation, verdict),
        _scores(evaluation),
        _gate(verdict),
        _footprint(footprint, grams),
        _licences(licences),
        "## Recipe\n\n```yaml\n" + _yaml(dict(recipe)).replace("```", "'''") + "```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, evaluation: Evaluation, licences: Mapping[str, str], grams: float | None) -> str:
    licence = sorted(set(licences.values()))
    meta: dict[str, Any] = {
        "pipeline_tag": "text-classification",
        "library_name": "onnx",
        "tags": ["distillation", "quantization", "onnx"],
        "license": licence[0].lower() if len(licence) == 1 else "other",
        "co2_eq_emissions": {"emissions": grams, "source": "CodeCarbon", "training_type": "compression"},
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {"name": "the recipe's test split", "type": "local"},
                        "metrics": [
                            {"type": "accuracy", "value": round(evaluation.student.accuracy, 4)},
                            {"type": "f1", "name": "macro F1", "value": round(evaluation.student.macro_f1, 4)},
                        ],
                    }
                ],
            }
        ],
    }
    return f"---\n{_yaml(meta)}---"


def _summary(seen: Evaluation, verdict: Verdict) -> str:
    smaller = _times(seen.teacher.bytes, seen.student.bytes)
    faster = _times(seen.teacher.p50_ms, seen.student.p50_ms)
    outcome = "passed its gate" if verdict.passed else "**was rejected by its gate**"
    return (
        f"A student that takes {seen.student.bytes / 1e6:.2f} MB where its teacher takes {seen.teacher.bytes / 1e6:.2f}"
        f" MB ({smaller}), answers {faster} as fast, and {outcome}. It keeps {_interval(seen.retention)} of the"
        f" teacher's score and {_interval(seen.lift_retained)} of the teacher's lift over the floor (95 % intervals,"
        f" {seen.examples} examples seen by all three). It agrees with the teacher on {seen.agreement:.1%};"
        f" {seen.flips_to_wrong} answers turned wrong and {seen.flips_to_right} turned right."
    )


def _scores(seen: Evaluation) -> str:
    def row(label: str, score: ModelScore) -> str:
        cells = [
            f"{score.accuracy:.4f}",
            f"{score.macro_f1:.4f}",
            f"{score.bytes / 1e6:.2f}",
            _known(score.parameters, ",d"),
            _known(score.macs, ",d"),
            f"{score.p50_ms:.3f}",
            f"{score.p95_ms:.3f}",
            f"{score.throughput:.1f}",
            _known(score.peak_rss_mb, ".0f"),
        ]
        return f"| {label} | " + " | ".join(cells) + " |"

    head = "| | accuracy | macro F1 | MB | parameters | MACs | p50 ms | p95 ms | texts/s | peak RSS MB |"
    rule = "|---|" + "---:|" * 9
    rows = [row("teacher", seen.teacher), row("student", seen.student), row("floor", seen.floor)]
    note = "MB is 10^6 bytes of all files needed to predict; latency at one thread; the floor is a linear model."
    return "\n".join(["## Measurements", "", head, rule, *rows, "", note])


def _gate(verdict: Verdict) -> str:
    rows = [
        f"| {_text(check.name)} | {_known(check.value, '.4f')} | {_known(check.limit, 'g')} |"
        f" {'yes' if check.passed else 'NO'} | {_text(check.why)} |"
        for check in verdict.checks
    ]
    head = ["## Gate", "", "| check | value | least | passed | why |", "|---|---:|---:|---|---|"]
    return "\n".join([*head, *rows, "", f"Verdict: {'passed' if verdict.passed else 'rejected'}."])


def _footprint(seen: Footprint, grams: float | None) -> str:
    if seen.kwh is None:
        energy = "The energy was not measured."
    else:
        energy = f"It took {_band(seen.kwh)} kWh before PUE (low, central, high; method tier: {_text(seen.tier)})."
    carbon = "The emissions are unknown." if grams is None else f"The emissions were {grams:.3g} g CO2eq."
    return f"## Footprint of making it\n\n{energy} {carbon} The stages ran for {seen.seconds:.0f} s in all."


def _licences(licences: Mapping[str, str]) -> str:
    rows = [f"- {_text(what)}: {_text(licence)}" for what, licence in sorted(licences.items())]
    return "\n".join(["## Licences", "", *(rows or ["No licence was stated."])])


def _times(above: float, below: float) -> str:
    return f"{above / below:.1f}×" if below > 0 else "unknown"


def _interval(value: Any) -> str:
    return f"{value.point:.1%} ({value.low:.1%} to {value.high:.1%})"


def _band(band: Band) -> str:
    return f"{band.low:.3g}, {band.central:.3g}, {band.high:.3g}"


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _text(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))
