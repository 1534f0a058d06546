"""The tables of a model card, and numbers and text as a card writes them; what is unknown is said to be unknown."""

from registry.records import METRICS, PERPLEXITIES, Evaluation, Interval, ModelScore, State, Verdict

STATES: dict[State, str] = {"passed": "yes", "failed": "NO", "not_proven": "not proven"}  # whether a check passed


def scores(seen: Evaluation) -> str:
    """Quality, size and speed of teacher, student and floor."""
    if seen.task == "generate":
        return written(seen)
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


def written(seen: Evaluation) -> str:
    """Size and speed of models that write."""
    models = {"teacher": seen.teacher, "student": seen.student, "floor": seen.floor}
    names = ["MB", "bits per weight", "parameters", "peak RSS MB"]
    for one in seen.student.speeds:
        names += [f"{what}, {one.threads} thr." for what in ("tokens/s written", "tokens/s read", "first token ms")]

    def row(label: str, score: ModelScore) -> str:
        cells = [f"{score.bytes / 1e6:.2f}", known(score.bits_per_weight, ".2f"), known(score.parameters, ",d")]
        cells.append(known(score.peak_rss_mb, ".0f"))
        for one in score.speeds:
            cells += [f"{one.decode_tokens_per_s:.1f}", f"{one.prefill_tokens_per_s:.1f}", f"{one.first_token_ms:.0f}"]
        return f"| {label} | " + " | ".join(cells) + " |"

    head, rule = f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)
    notes = [
        f"MB is 10^6 bytes of all files needed to write; run by {seen.runtime}; the floor is the teacher rounded to 4"
        " bits by the plain formula. Medians of rounds in which all three take turns: a prompt of 256 tokens read, one"
        " of 32 until its first token, 32 tokens written."
    ]
    notes += [
        f"The teacher in float32 in transformers writes {one.decode_tokens_per_s:.1f} tokens/s with {one.threads} thr."
        for one in seen.reference
    ]
    return "\n".join(["## Measurements", "", head, rule, *(row(*one) for one in models.items()), "", " ".join(notes)])


def measures(seen: Evaluation) -> str:
    """The measures of a model that embeds or writes: three scores and what is kept, with its interval."""
    rows = [
        f"| {METRICS[name]} | {one.teacher:.4f} | {one.student:.4f} | {one.floor:.4f} | "
        f"{more(one.retention) if name in PERPLEXITIES else interval(one.retention)} |"
        for name, one in seen.measures.items()
    ]
    head = ["| | teacher | student | floor | kept |", "|---|---:|---:|---:|---:|"]
    if seen.task == "generate":
        return "\n".join(["## Quality of what it writes", "", *head, *rows, *divergences(seen), "", writing_note(seen)])
    note = (
        "overlap@10: the share of a held-out text's ten nearest that are so by the teacher's vectors too; rank "
        "correlation: of a text's similarities to all others, with the teacher's (both are 1 for the teacher itself)."
    )
    if "probe_accuracy" in seen.measures:
        note += " Probe: a logistic regression on the frozen vectors of the labelled training texts."
    return "\n".join(["## Quality of the embeddings", "", *head, *rows, "", note])


def divergences(seen: Evaluation) -> list[str]:
    """Rows of the divergence from the teacher, where it could be taken."""
    names = {"kl": "KL to the teacher, nats a token", "kl_second": "KL, second domain"}
    found = {label: (getattr(seen.student, key), getattr(seen.floor, key)) for key, label in names.items()}
    return [
        f"| {label} | 0 | {known(student and student.point, '.4f')} | {known(floor and floor.point, '.4f')} | |"
        for label, (student, floor) in found.items()
        if student or floor
    ]


def writing_note(seen: Evaluation) -> str:
    """What the measures of a model that writes mean."""
    note = (
        "Perplexity is better when it is lower, so kept is how far it is from the teacher's; it is told for a token of"
        " the teacher's, whichever tokenizer a model has, and for a byte of text. Top-1 agreement: the share of places"
        " of the documents where the likeliest next token is the teacher's. Chat agreement: the share of the teacher's"
        " answers to shipped prompts that comes word for word before the first difference, both writing greedily."
        " Accuracy on facts and endings: shipped questions with answers to choose from, by their log-likelihood."
    )
    return " ".join([note, *(f"{METRICS[name]} was not measured: {text(why)}." for name, why in seen.left_out.items())])


def gate(verdict: Verdict, remark: str) -> str:
    """Every check with its numbers; the remark follows the verdict."""
    rows = [
        f"| {text(check.name)} | {known(check.value, '.4f')} | {known(check.limit, 'g')} |"
        f" {STATES[check.state]} | {text(check.why)} |"
        for check in verdict.checks
    ]
    head = ["## Gate", "", "| check | value | limit | passed | why |", "|---|---:|---:|---|---|"]
    return "\n".join([*head, *rows, "", f"Verdict: {'passed' if verdict.passed else 'rejected'}{remark}."])


def times(above: float, below: float) -> str:
    """How many times one number is the other."""
    return f"{above / below:.1f}×" if below > 0 else "unknown"


def interval(value: Interval) -> str:
    """A share with its interval."""
    return f"{value.point:.1%} ({value.low:.1%} to {value.high:.1%})"


def more(kept: Interval) -> str:
    """By how much a perplexity is above the teacher's, from what is kept of it."""
    point, low, high = (f"{100 * (1 / one - 1):+.1f}%" for one in (kept.point, kept.high, kept.low))
    return f"{point} ({low} to {high})"


def known(value: float | None, form: str) -> str:
    """A number in a format, or that it is unknown."""
    return "unknown" if value is None else format(value, form)


def text(value: str) -> str:
    """Text that stays in its line, its cell and out of HTML."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")
