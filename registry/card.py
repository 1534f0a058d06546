"""The model card: Markdown with Hugging Face metadata; what is unknown is said to be unknown, never 0."""

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from registry.card_code import use
from registry.card_tables import gate, interval, measures, more, scores, text, times
from registry.gate import is_smoke
from registry.records import METRICS, STRICT, Evaluation, Footprint, Task, Verdict, better

TAGS: dict[Task, str] = {  # Hugging Face's
    "classify": "text-classification",
    "embed": "sentence-similarity",
    "generate": "text-generation",
}
FORMATS: dict[Task, str] = {"classify": "onnx", "embed": "onnx", "generate": "gguf"}

SMOKE_WARNING = (
    "**A smoke walk on a 2-layer clone and a few rows: it shows that the chain runs. No figure on this card says "
    "anything of quality, size or speed, and the model is not for use.**"
)


class Story(BaseModel):
    """What a card tells beside the measurements; digests name what it is about."""

    model_config = STRICT
    digest: str
    recipe_digest: str
    payback: str
    limits: tuple[str, ...]
    labels: tuple[str, ...]
    exports: tuple[str, ...] = ()
    multi_label: bool = False
    pairs: bool = False
    context: int | None = None  # tokens that a model which writes can read
    sources: dict[str, str]
    licences: dict[str, str]
    grams: float | None = None
    grams_range: str | None = None
    location: str | None = None  # ISO 3166 alpha-3 code of the grid
    hardware: str | None = None  # that the stages ran on
    signed_with: str | None = None  # id of the key, SHA-256 of its public half in PEM
    signed_on: str | None = None
    examples: tuple[str, ...] = ()  # judged texts that the recipe allows to be shown


def render(
    name: str,
    recipe: Mapping[str, Any],
    evaluation: Evaluation,
    verdict: Verdict,
    footprint: Footprint,
    story: Story,
) -> str:
    """A model's card as Markdown; `story.grams` are the emissions of making it, null while they are unknown."""
    parts = [
        _metadata(name, evaluation, story),
        f"# {text(name)}",
        *([SMOKE_WARNING] if is_smoke(name) else []),
        _summary(evaluation, verdict, "an open gate" if is_smoke(name) else "its gate"),
        _answers(story, recipe),
        use(name, evaluation.task, story.pairs, story.multi_label, story.context),
        scores(evaluation),
        *([measures(evaluation)] if evaluation.measures else []),
        gate(verdict, ", by an open gate that says nothing of quality" if is_smoke(name) else ""),
        *([_exports(story)] if story.exports else []),
        *(["## Examples\n\n" + "\n".join(f"- {text(one)}" for one in story.examples)] if story.examples else []),
        _limits(story),
        _footprint(footprint, story),
        _origin(story),
        "## Recipe\n\n```yaml\n" + _yaml(dict(recipe)).replace("```", "'''") + "```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, evaluation: Evaluation, story: Story) -> str:
    licences = sorted(set(story.licences.values()))
    licence: dict[str, Any] = {"license": licences[0].lower()} if len(licences) == 1 else {"license": "other"}
    if len(licences) != 1:
        licence["license_name"] = ", ".join(f"{what} {one}" for what, one in sorted(story.licences.items()))
    teacher, tag, scores = story.sources.get("teacher", ""), TAGS[evaluation.task], _results(evaluation)
    meta: dict[str, Any] = {
        "pipeline_tag": tag,
        "library_name": FORMATS[evaluation.task],
        "tags": ["distillation", "pruning", "quantization", FORMATS[evaluation.task], tag],
        **licence,
        **({"base_model": _package(teacher)} if teacher.startswith("pypi:") else {}),
        **_emitted(story),
        "metrics": [score["type"] for score in scores],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": tag},
                        "dataset": {
                            "name": f"test split of {_package(story.sources.get('data', 'unknown'))}",
                            "type": "local",
                        },
                        "metrics": scores,
                    }
                ],
            }
        ],
    }
    return f"---\n{_yaml(meta)}---"


def _emitted(story: Story) -> dict[str, Any]:
    """What the hub reads of emissions, in grams: nothing while the grid is unknown, or the energy."""
    if story.grams is None or story.location is None:
        return {}
    told = {
        "emissions": round(story.grams, 6),
        "source": "CodeCarbon",
        "training_type": "compression of a trained model (distillation, pruning, quantization)",
        "geographical_location": story.location,
    }
    return {"co2_eq_emissions": told | ({"hardware_used": story.hardware} if story.hardware else {})}


def _results(seen: Evaluation) -> list[dict[str, Any]]:
    """The student's scores as a model index has them."""
    if seen.measures:
        return [
            {"type": name, "name": METRICS[name], "value": round(one.student, 4)} for name, one in seen.measures.items()
        ]
    found = (("accuracy", "accuracy", seen.student.accuracy), ("f1", "macro F1", seen.student.macro_f1))
    return [{"type": kind, "name": name, "value": round(score, 4)} for kind, name, score in found if score is not None]


def _package(uri: str) -> str:
    """The name in a source's address: pypi:NAME==VERSION or dir:PATH."""
    return uri.partition(":")[2].partition("==")[0].rstrip("/").rpartition("/")[2] or uri


def _answers(story: Story, recipe: Mapping[str, Any]) -> str:
    """What goes in and what comes out."""
    if recipe.get("task") == "generate":
        return (
            "It takes a text, or a conversation in its chat template, and goes on with it token by token. Weights, "
            "tokenizer and chat template lie in one GGUF file, which llama.cpp and transformers read."
        )
    longest = recipe.get("data", {}).get("max_length")
    cut = f", cut after {longest} tokens" if longest else ""
    if not story.labels:
        return (
            f"It takes a text{cut}, and gives a vector of length 1: two texts are as alike as their vectors' product."
        )
    takes = "two texts, read together" if story.pairs else "a text"
    gives = ", of which those above 0 are its answer" if story.multi_label else ""
    return f"It takes {takes}{cut}, and gives a logit for each label{gives}: {', '.join(map(text, story.labels))}."


def _summary(seen: Evaluation, verdict: Verdict, gate: str) -> str:
    smaller = times(seen.teacher.bytes, seen.student.bytes)
    faster = times(seen.teacher.p50_ms, seen.student.p50_ms)
    outcome = f"passed {gate}" if verdict.passed else f"**was rejected by {gate}**"
    lift = f"{interval(seen.lift_retained)} of the teacher's lift over the floor"
    if not better(seen.metric, seen.scores()["teacher"], seen.scores()["floor"]):
        lift = "no lift over the floor, which the teacher does not beat either"
    if seen.task == "generate":
        return _summary_of_writing(seen, smaller, faster, outcome, lift)
    which = f" (of {len(seen.measures)} measures the one that kept least)" if seen.measures else ""
    said = (
        f"A student that takes {seen.student.bytes / 1e6:.2f} MB where its teacher takes {seen.teacher.bytes / 1e6:.2f}"
        f" MB ({smaller}), answers {faster} as fast, and {outcome}. It keeps {interval(seen.retention)} of the"
        f" teacher's {METRICS[seen.metric]}{which} and {lift} (95 % intervals,"
        f" {seen.examples} examples seen by all three)."
    )
    if seen.agreement is None:
        return said
    whose = "With a probe on its vectors it" if seen.measures else "It"
    return (
        f"{said} {whose} agrees with the teacher on {seen.agreement:.1%};"
        f" {seen.flips_to_wrong} answers turned wrong and {seen.flips_to_right} turned right."
    )


def _summary_of_writing(seen: Evaluation, smaller: str, faster: str, outcome: str, lift: str) -> str:
    read, bits = seen.measures["perplexity"], seen.student.bits_per_weight
    weighs = "" if bits is None else f", {bits:.2f} bits per weight"
    at = f" At {seen.agreement:.1%} of all places both find the same next token likeliest." if seen.agreement else ""
    return (
        f"A student that takes {seen.student.bytes / 1e6:.2f} MB{weighs}, where its teacher takes"
        f" {seen.teacher.bytes / 1e6:.2f} MB ({smaller}), writes {faster} as fast, and {outcome}. Its perplexity is"
        f" {read.student:.3f} where its teacher's is {read.teacher:.3f} ({more(seen.retention)}; 95 % interval,"
        f" {seen.examples} documents read by all three); it keeps {lift}.{at}"
    )


def _exports(story: Story) -> str:
    head = "Each was read back by its own runtime in a process of its own and compared with what it was made of."
    return "\n".join(["## Exports", "", head, "", *(f"- {text(line)}" for line in story.exports)])


def _limits(story: Story) -> str:
    return "\n".join(["## Limits", "", *(f"- {text(line)}" for line in story.limits)])


def _footprint(seen: Footprint, story: Story) -> str:
    if seen.kwh is None:
        energy = "The energy was not measured."
    else:
        energy = f"It took {seen.kwh.central:.3g} kWh ({seen.kwh.low:.3g} to {seen.kwh.high:.3g}; {text(seen.tier)})."
    if story.grams is not None:
        carbon = f"The emissions were {story.grams:.3g} g CO2eq: {story.grams_range}."
    elif story.grams_range is not None:
        carbon = f"The emissions are unknown, no grid was named: {story.grams_range}."
    else:
        carbon = "The emissions are unknown."
    took = f"The stages ran for {seen.seconds:.0f} s in all."
    more = "The [report](report.html) beside this card ([JSON](report.json)) tells boundary, components, and sources."
    return f"## Footprint of making it\n\n{energy} {carbon} {took} {text(story.payback)} {more}"


def _origin(story: Story) -> str:
    rows = [
        f"- {text(what)}: {text(licence)}" + (f", from `{story.sources[what]}`" if what in story.sources else "")
        for what, licence in sorted(story.licences.items())
    ]
    head = ["## Licences and origin", "", *(rows or ["No licence was stated."])]
    if story.signed_with is not None:
        rows.append(f"- signed {story.signed_on} with the key `{story.signed_with}`")
    terms = "The student is derived from both; check that their terms allow your use."
    return "\n".join([*head, f"- digest `{story.digest}`", f"- recipe `{story.recipe_digest}`", "", terms])


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))
