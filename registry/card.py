"""The model card: Markdown with Hugging Face metadata; what is unknown is said to be unknown, never 0."""

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from registry.gate import is_smoke
from registry.records import METRICS, STRICT, Evaluation, Footprint, ModelScore, Task, Verdict

SNIPPET = """
import json

import mlflow
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = mlflow.artifacts.download_artifacts("models:/%s@champion") + "/model"
with open(folder + "/config.json") as stream:
    config = json.load(stream)
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation(config["max_length"])
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
"""
ASK: dict[Task, str] = {
    "classify": """ids = np.array([tokenizer.encode("a text"%(pair)s).ids])
logits = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
%(choose)s
""",
    "embed": """def embed(text):
    ids = np.array([tokenizer.encode(text).ids])
    return session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
similarity = float(embed("a text") @ embed("another text"))
""",
}
ONE_LABEL = 'label = config["labels"][int(logits.argmax())]'
SEVERAL_LABELS = 'labels = [name for name, logit in zip(config["labels"], logits) if logit > 0]'
TAGS: dict[Task, str] = {"classify": "text-classification", "embed": "sentence-similarity"}  # Hugging Face's

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
    sources: dict[str, str]
    licences: dict[str, str]
    grams: float | None = None
    grams_range: str | None = None


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
        f"# {_text(name)}",
        *([SMOKE_WARNING] if is_smoke(name) else []),
        _summary(evaluation, verdict, "an open gate" if is_smoke(name) else "its gate"),
        _answers(story, recipe),
        _use(name, evaluation.task, story),
        _scores(evaluation),
        *([_measures(evaluation)] if evaluation.measures else []),
        _gate(verdict, ", by an open gate that says nothing of quality" if is_smoke(name) else ""),
        *([_exports(story)] if story.exports else []),
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
        "library_name": "onnx",
        "tags": ["distillation", "pruning", "quantization", "onnx", tag],
        **licence,
        **({"base_model": _package(teacher)} if teacher.startswith("pypi:") else {}),
        "co2_eq_emissions": {
            "emissions": story.grams,
            "source": "CodeCarbon",
            "training_type": "compression of a trained model",
        },
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
    longest = recipe.get("data", {}).get("max_length")
    cut = f", cut after {longest} tokens" if longest else ""
    if not story.labels:
        return (
            f"It takes a text{cut}, and gives a vector of length 1: two texts are as alike as their vectors' product."
        )
    takes = "two texts, read together" if story.pairs else "a text"
    gives = ", of which those above 0 are its answer" if story.multi_label else ""
    return f"It takes {takes}{cut}, and gives a logit for each label{gives}: {', '.join(map(_text, story.labels))}."


def _use(name: str, task: Task, story: Story) -> str:
    path = {"classify": "predict", "embed": "embed"}[task]
    words = '"a text" --pair "another text"' if story.pairs else '"a text"'
    return "\n".join(
        [
            "## Use it",
            "",
            "```",
            f"shrink predict {name}@champion {words}     # fetched from the registry, verified against its digest",
            f"shrink deploy {name}                        # /{path} and /healthz on loopback, follows the alias",
            "```",
            "",
            "Without this project, with MLFLOW_TRACKING_URI set (no torch needed, nothing is unpickled):",
            "",
            "```python",
            *code(name, task, story.pairs, story.multi_label).splitlines(),
            "```",
        ]
    )


def code(name: str, task: Task, pairs: bool = False, multi_label: bool = False) -> str:
    """Python lines that ask a registered model with MLflow and ONNX Runtime alone."""
    choose, pair = SEVERAL_LABELS if multi_label else ONE_LABEL, ', "another text"' if pairs else ""
    ask = ASK[task] % {"pair": pair, "choose": choose} if task == "classify" else ASK[task]
    return (SNIPPET % name + ask).strip()


def _summary(seen: Evaluation, verdict: Verdict, gate: str) -> str:
    smaller = _times(seen.teacher.bytes, seen.student.bytes)
    faster = _times(seen.teacher.p50_ms, seen.student.p50_ms)
    outcome = f"passed {gate}" if verdict.passed else f"**was rejected by {gate}**"
    lift = f"{_interval(seen.lift_retained)} of the teacher's lift over the floor"
    if seen.scores()["teacher"] <= seen.scores()["floor"]:
        lift = "no lift over the floor, which the teacher does not beat either"
    which = f" (of {len(seen.measures)} measures the one that kept least)" if seen.measures else ""
    said = (
        f"A student that takes {seen.student.bytes / 1e6:.2f} MB where its teacher takes {seen.teacher.bytes / 1e6:.2f}"
        f" MB ({smaller}), answers {faster} as fast, and {outcome}. It keeps {_interval(seen.retention)} of the"
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


def _measures(seen: Evaluation) -> str:
    """An embedding model's measures: three scores and what is kept, with its interval."""
    rows = [
        f"| {METRICS[name]} | {one.teacher:.4f} | {one.student:.4f} | {one.floor:.4f} | {_interval(one.retention)} |"
        for name, one in seen.measures.items()
    ]
    head = ["| | teacher | student | floor | kept |", "|---|---:|---:|---:|---:|"]
    note = (
        "overlap@10: the share of a held-out text's ten nearest that are so by the teacher's vectors too; rank "
        "correlation: of a text's similarities to all others, with the teacher's (both are 1 for the teacher itself)."
    )
    if "probe_accuracy" in seen.measures:
        note += " Probe: a logistic regression on the frozen vectors of the labelled training texts."
    return "\n".join(["## Quality of the embeddings", "", *head, *rows, "", note])


def _scores(seen: Evaluation) -> str:
    several = seen.student.micro_f1 is not None
    own = (("accuracy", "macro F1", "micro F1") if several else ("accuracy", "macro F1")) * (seen.task == "classify")

    def row(label: str, score: ModelScore) -> str:
        cells = [
            *(_known(value, ".4f") for value in (score.accuracy, score.macro_f1, score.micro_f1)[: len(own)]),
            f"{score.bytes / 1e6:.2f}",
            _known(score.parameters, ",d"),
            _known(score.macs, ",d"),
            f"{score.p50_ms:.3f}",
            f"{score.p95_ms:.3f}",
            f"{score.throughput:.1f}",
            _known(score.peak_rss_mb, ".0f"),
        ]
        return f"| {label} | " + " | ".join(cells) + " |"

    names = (*own, "MB", "parameters", "MACs", "p50 ms", "p95 ms", "texts/s", "peak RSS MB")
    head, rule = f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)
    rows = [row("teacher", seen.teacher), row("student", seen.student), row("floor", seen.floor)]
    floor = "a linear model" if seen.task == "classify" else "TF-IDF, or static vectors where the recipe says so"
    note = f"MB is 10^6 bytes of all files needed to predict; latency at one thread; the floor is {floor}."
    if several:
        note += " Accuracy is the share of texts whose whole set of labels is right."
    return "\n".join(["## Measurements", "", head, rule, *rows, "", note])


def _gate(verdict: Verdict, remark: str) -> str:
    rows = [
        f"| {_text(check.name)} | {_known(check.value, '.4f')} | {_known(check.limit, 'g')} |"
        f" {'yes' if check.passed else 'NO'} | {_text(check.why)} |"
        for check in verdict.checks
    ]
    head = ["## Gate", "", "| check | value | least | passed | why |", "|---|---:|---:|---|---|"]
    return "\n".join([*head, *rows, "", f"Verdict: {'passed' if verdict.passed else 'rejected'}{remark}."])


def _exports(story: Story) -> str:
    head = "Each was read back by its own runtime in a process of its own and compared with what it was made of."
    return "\n".join(["## Exports", "", head, "", *(f"- {_text(line)}" for line in story.exports)])


def _limits(story: Story) -> str:
    return "\n".join(["## Limits", "", *(f"- {_text(line)}" for line in story.limits)])


def _footprint(seen: Footprint, story: Story) -> str:
    if seen.kwh is None:
        energy = "The energy was not measured."
    else:
        energy = f"It took {seen.kwh.central:.3g} kWh ({seen.kwh.low:.3g} to {seen.kwh.high:.3g}; {_text(seen.tier)})."
    if story.grams is not None:
        carbon = f"The emissions were {story.grams:.3g} g CO2eq."
    elif story.grams_range is not None:
        carbon = f"The emissions are unknown, no country was set: {story.grams_range}."
    else:
        carbon = "The emissions are unknown."
    took = f"The stages ran for {seen.seconds:.0f} s in all."
    return f"## Footprint of making it\n\n{energy} {carbon} {took} {_text(story.payback)}"


def _origin(story: Story) -> str:
    rows = [
        f"- {_text(what)}: {_text(licence)}" + (f", from `{story.sources[what]}`" if what in story.sources else "")
        for what, licence in sorted(story.licences.items())
    ]
    head = ["## Licences and origin", "", *(rows or ["No licence was stated."])]
    terms = "The student is derived from both; check that their terms allow your use."
    return "\n".join([*head, f"- digest `{story.digest}`", f"- recipe `{story.recipe_digest}`", "", terms])


def _times(above: float, below: float) -> str:
    return f"{above / below:.1f}×" if below > 0 else "unknown"


def _interval(value: Any) -> str:
    return f"{value.point:.1%} ({value.low:.1%} to {value.high:.1%})"


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _text(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))
