"""The tables of a model card, and numbers and text as a card writes them; what is unknown is said to be unknown."""

from registry.records import METRICS, Evaluation, Interval, ModelScore, Verdict


def scores(seen: Evaluation) -> str:
    """Quality, size and speed of teacher, student and floor."""
    several = seen.student.micro_f1 is not None
    own = (("accuracy", "macro F1", "micro F1") if several else ("accuracy", "macro F1")) * (seen.task == "classify")

    def row(label: str, score: ModelScore) -> str:
        cells = [
            *(known(value, ".4f") for value in (score.accuracy, score.macro_f1, score.micro_f1)[: len(own)]),
            f"{score.bytes / 1e6:.2f}",
            known(score.parameters, ",d"),
            known(score.macs, ",d"),
            f"{score.p50_ms:.3f}",
            f"{score.p95_ms:.3f}",
            f"{score.throughput:.1f}",
            known(score.peak_rss_mb, ".0f"),
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


def measures(seen: Evaluation) -> str:
    """An embedding model's measures: three scores and what is kept, with its interval."""
    rows = [
        f"| {METRICS[name]} | {one.teacher:.4f} | {one.student:.4f} | {one.floor:.4f} | {interval(one.retention)} |"
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


def gate(verdict: Verdict, remark: str) -> str:
    """Every check with its numbers; the remark follows the verdict."""
    rows = [
        f"| {text(check.name)} | {known(check.value, '.4f')} | {known(check.limit, 'g')} |"
        f" {'yes' if check.passed else 'NO'} | {text(check.why)} |"
        for check in verdict.checks
    ]
    head = ["## Gate", "", "| check | value | least | passed | why |", "|---|---:|---:|---|---|"]
    return "\n".join([*head, *rows, "", f"Verdict: {'passed' if verdict.passed else 'rejected'}{remark}."])


def times(above: float, below: float) -> str:
    """How many times one number is the other."""
    return f"{above / below:.1f}×" if below > 0 else "unknown"


def interval(value: Interval) -> str:
    """A share with its interval."""
    return f"{value.point:.1%} ({value.low:.1%} to {value.high:.1%})"


def known(value: float | None, form: str) -> str:
    """A number in a format, or that it is unknown."""
    return "unknown" if value is None else format(value, form)


def text(value: str) -> str:
    """Text that stays in its line, its cell and out of HTML."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")
