"""What is said of a model that writes: its facts in `show --json`, its sentence, its rows beside teacher and floor.

The floor is the teacher rounded to four bits by the plain formula, which anybody has for nothing.
"""

from typing import Any

from flows import units
from registry.records import METRICS, PERPLEXITIES, Evaluation, Speed

MODELS = ("teacher", "student", "floor")
FLOOR = "plain 4-bit rounding"
Row = tuple[str, dict[str, Any], Any, str]  # a name, values by model, how one is written, what was gained


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """What `show` adds of a model that writes; of others null, but for the memory that answering takes."""
    models = {who: getattr(evaluation, who) for who in MODELS}
    memory = {"peak_rss_mb": {who: one.peak_rss_mb for who, one in models.items()}}
    if evaluation.task != "generate":
        names = ("bits_per_weight", "perplexity", "tokens_per_second", "writing")
        return {**dict.fromkeys(names), **memory}
    decode = {who: rate(one.speeds) for who, one in models.items()}
    told = {
        "bits_per_weight": evaluation.student.bits_per_weight,
        "perplexity": perplexity(evaluation, "perplexity"),
        "tokens_per_second": {**decode, "ratio": units.ratio(decode["student"], decode["teacher"])},
    }
    return {**told, **memory, "writing": details(evaluation)}


def details(evaluation: Evaluation) -> dict[str, Any]:
    """Everything else that was measured of the three models."""
    models = {who: getattr(evaluation, who) for who in MODELS}
    return {
        "runtime": evaluation.runtime,
        "perplexities": {name: perplexity(evaluation, name) for name in PERPLEXITIES if name in evaluation.measures},
        "bits_per_weight": {who: one.bits_per_weight for who, one in models.items()},
        "kl": {who: one.kl.model_dump() if one.kl else None for who, one in models.items()},
        "kl_second": {who: one.kl_second.model_dump() if one.kl_second else None for who, one in models.items()},
        "speeds": {who: [speed.model_dump() for speed in one.speeds] for who, one in models.items()},
        "reference": [speed.model_dump() for speed in evaluation.reference],
        "left_out": dict(evaluation.left_out),
        "sample": evaluation.sample.model_dump() if evaluation.sample else None,
    }


def perplexity(evaluation: Evaluation, name: Any) -> dict[str, float]:
    """A perplexity of all three, and the student's over the teacher's with its interval: 1.05 is 5 % more."""
    one = evaluation.measures[name]
    kept = one.retention
    over = {"ratio": 1 / kept.point, "ratio_low": 1 / kept.high, "ratio_high": 1 / kept.low}
    return {"teacher": one.teacher, "student": one.student, "floor": one.floor, **over}


def rate(speeds: tuple[Speed, ...] | list[Speed], threads: int = 1) -> float | None:
    """Written tokens a second with so many threads."""
    return next((one.decode_tokens_per_s for one in speeds if one.threads == threads), None)


def more(ratio: float) -> str:
    """By how much a perplexity is above the teacher's, as people say it."""
    return f"{100 * (ratio - 1):+.1f}%"


def sentence(shown: dict[str, Any]) -> str:
    """What became of the teacher, in one sentence."""
    size, read, speed = shown["bytes"], shown["perplexity"], shown["tokens_per_second"]
    bits = shown["bits_per_weight"]
    weighs = "" if bits is None else f" ({bits:.2f} bits per weight)"
    floor = more(read["floor"] / read["teacher"])
    return (
        f"{units.size(size['teacher'])} → {units.size(size['student'])}{weighs}, "
        f"perplexity {units.number(read['teacher'])} → {units.number(read['student'])} ({more(read['ratio'])} "
        f"[{more(read['ratio_low'])}, {more(read['ratio_high'])}]), "
        f"{units.number(speed['teacher'])} → {units.number(speed['student'])} tokens/s; "
        f"{FLOOR} at {units.size(size['floor'])} alone {floor}"
    )


def sample(shown: dict[str, Any]) -> list[str]:
    """The same prompt's answers, teacher's above student's, with their speeds; nothing where none was asked."""
    seen, speed = (shown.get("writing") or {}).get("sample"), shown["tokens_per_second"]
    if not seen:
        return []
    names = {who: f"{who} ({units.number(speed[who])} tokens/s)" for who in MODELS[:2]}
    wide = max(map(len, names.values()))
    return [f"asked: {seen['prompt']}", *(f"  {name:{wide}}  {answer(seen[who])}" for who, name in names.items())]


def answer(said: str) -> str:
    """An answer in one line; what breaks off says so."""
    line = " ".join(said.split())
    return line if line.endswith((".", "!", "?")) else f"{line} …" if line else "(nothing)"


def rows(evaluation: dict[str, Any]) -> list[Row]:
    """Quality, size, speed and memory of all three, a row each, from an evaluation as JSON."""
    models = {who: evaluation[who] for who in MODELS}
    found: list[Row] = []
    for name, one in evaluation["measures"].items():
        kept = one["retention"]
        spread = f"{more(1 / kept['point'])} [{more(1 / kept['high'])}, {more(1 / kept['low'])}]"
        share = f"keeps {kept['point']:.1%} [{kept['low']:.1%}, {kept['high']:.1%}]"
        write = units.number if name in PERPLEXITIES else units.percent
        found.append((METRICS[name], one, write, spread if name in PERPLEXITIES else share))
    for key, name in (("kl", "KL to the teacher, nats a token"), ("kl_second", "KL, second domain")):
        values = {who: one[key]["point"] if one.get(key) else None for who, one in models.items()}
        if any(value is not None for value in values.values()):
            found.append((name, values, units.number, ""))
    sizes, bits = each(models, "bytes"), each(models, "bits_per_weight")
    found.append(("size on disk", sizes, units.size, times(sizes["teacher"], sizes["student"], "smaller")))
    found.append(("bits per weight", bits, units.number, ""))
    found += speed_rows(models, evaluation.get("reference") or [])
    memory = each(models, "peak_rss_mb")
    return [*found, ("peak memory, MB", memory, units.number, times(memory["teacher"], memory["student"], "less"))]


def speed_rows(models: dict[str, dict[str, Any]], reference: list[dict[str, Any]]) -> list[Row]:
    """Written tokens a second, prompt tokens a second and the time to the first token, by number of threads."""
    found: list[Row] = []
    for place, one in enumerate(models["student"]["speeds"]):
        threads = f"{one['threads']} thread{'s' if one['threads'] > 1 else ''}"
        for key, name in (
            ("decode_tokens_per_s", "tokens/s written"),
            ("prefill_tokens_per_s", "tokens/s read"),
            ("first_token_ms", "first token, ms"),
        ):
            values = {who: model["speeds"][place][key] for who, model in models.items()}
            above, below = values["student"], values["teacher"]
            gained = times(*((below, above) if key.endswith("ms") else (above, below)), "faster")
            if key == "decode_tokens_per_s" and place < len(reference):
                plain = reference[place][key]
                gained += f", {times(above, plain, 'the fp32 teacher in transformers')} ({units.number(plain)})"
            found.append((f"{name}, {threads}", values, units.number, gained))
    return found


def each(models: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """One field of all three."""
    return {who: one.get(key) for who, one in models.items()}


def times(above: float | None, below: float | None, word: str) -> str:
    """How many times the one is the other; what is not faster is slower."""
    found = units.ratio(above, below)
    if found and found < 1 and word == "faster":
        return f"{units.number(1 / found)}× slower"
    return f"{units.number(found)}× {word}" if found else ""


def charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A chart a measure (bytes' perplexities left out: they are the others' on another scale), size and speed."""
    scores = evaluation.model_dump()
    shown = {name: one for name, one in scores["measures"].items() if not name.startswith("byte_")}
    lines: list[tuple[str, str, bool, dict[str, float], Any]] = [
        (name, f"{METRICS[name]} on held-out texts", name in PERPLEXITIES, one, units.number)
        for name, one in shown.items()
    ]
    last = (
        ("bytes", "size on disk", units.size),
        ("p50_ms", "median of one written token, one thread", units.milliseconds),
    )
    lines += [
        (field, label, True, {name: scores[name][field] for name in MODELS}, write) for field, label, write in last
    ]
    charts = []
    for field, label, lower, values, write in lines:
        top = max(values[name] for name in MODELS) or 1
        bars = [
            {
                "name": name,
                "value": values[name],
                "text": write(values[name]),
                "width": round(100 * values[name] / top, 2),
            }
            for name in MODELS
        ]
        sense = "shorter is better" if lower else "longer is better"
        charts.append({"field": field, "label": label[0].upper() + label[1:], "sense": sense, "bars": bars})
    return charts


def kept(seen: Evaluation) -> dict[str, str]:
    """What of a teacher's quality is left, whatever it does: a figure, what it is, its interval, all in a sentence."""
    held, metric = seen.retention, METRICS[seen.metric]
    if seen.metric in PERPLEXITIES:
        figure = more(1 / held.point)
        between = f"{more(1 / held.high)} to {more(1 / held.low)}"
        on = f"({between}, paired) on {seen.examples:,} documents"
        said = f"The student’s {metric} is {figure} beside the teacher’s {on}"
        if seen.agreement is not None:
            said += f"; at {units.percent(seen.agreement)} of all places both find the same next token likeliest"
        return {"figure": figure, "of": f"{metric} beside the teacher’s", "between": between, "said": f"{said}."}
    figure, between = units.percent(held.point), f"{units.percent(held.low)} to {units.percent(held.high)}"
    said = (
        f"The student keeps {figure} of the teacher’s {metric} ({between}, paired) on {seen.examples:,} test examples"
    )
    if seen.agreement is not None:
        with_probe = "with a probe on their vectors " if seen.measures else ""
        said += f"; {with_probe}the two agree on {units.percent(seen.agreement)}"
    said += f". Of {len(seen.measures)} measures this is the one that kept least." if seen.measures else "."
    return {"figure": figure, "of": f"of the teacher’s {metric} kept", "between": between, "said": said}
