"""Small records that the tests of registry share."""

from registry.records import (
    Band,
    Evaluation,
    Footprint,
    Interval,
    Measure,
    MeasureName,
    ModelScore,
    Speed,
    StageRecord,
)


def score(accuracy: float, size: int, p50: float) -> ModelScore:
    return ModelScore(
        accuracy=accuracy,
        macro_f1=accuracy,
        bytes=size,
        parameters=None,
        macs=None,
        p50_ms=p50,
        p95_ms=p50 * 2,
        throughput=10.0,
        peak_rss_mb=None,
    )


def evaluation(retention: float = 0.98, low: float = 0.96, win: float = 0.02) -> Evaluation:
    return Evaluation(
        examples=1000,
        teacher=score(0.92, 90_000_000, 8.0),
        student=score(0.90, 9_000_000, 2.0),
        floor=score(0.85, 1_000_000, 0.1),
        retention=Interval(point=retention, low=low, high=1.0),
        lift_retained=Interval(point=0.7, low=0.5, high=0.9),
        win_over_floor=Interval(point=win + 0.02, low=win, high=win + 0.04),
        flips_to_wrong=30,
        flips_to_right=10,
        agreement=0.96,
    )


def kept(teacher: float, student: float, floor: float, share: float, win: float) -> Measure:
    return Measure(
        teacher=teacher,
        student=student,
        floor=floor,
        retention=Interval(point=share, low=share - 0.01, high=share + 0.01),
        lift_retained=Interval(point=0.7, low=0.5, high=0.9),
        win_over_floor=Interval(point=win, low=win / 2, high=win * 2),
    )


def written() -> Evaluation:
    """Of a model that writes: its perplexity is 5 % above its teacher's, its floor's 25 %."""

    def model(size: int, tokens: float, bits: float) -> ModelScore:
        speeds = tuple(
            Speed(
                threads=threads,
                prefill_tokens_per_s=5 * tokens * threads,
                decode_tokens_per_s=tokens * threads,
                first_token_ms=900 / tokens / threads,
            )
            for threads in (1, 2)
        )
        one = score(0.0, size, 1e3 / tokens)
        return one.model_copy(
            update={
                "accuracy": None,
                "macro_f1": None,
                "peak_rss_mb": size / 1e6 + 100,
                "bits_per_weight": bits,
                "speeds": speeds,
            }
        )

    measures: dict[MeasureName, Measure] = {
        "perplexity": kept(20.0, 21.0, 25.0, 20 / 21, 4.0),
        "byte_perplexity": kept(2.0, 2.02, 2.1, 2 / 2.02, 0.08),
        "top1_agreement": kept(1.0, 0.9, 0.8, 0.9, 0.1),
        "chat_agreement": kept(1.0, 0.5, 0.4, 0.5, 0.1),
    }
    whole = measures["perplexity"]
    return Evaluation(
        examples=90,
        task="generate",
        metric="perplexity",
        measures=measures,
        left_out={"perplexity_second": "the data has no second domain"},
        runtime="llama_cpp",
        reference=(Speed(threads=1, prefill_tokens_per_s=150, decode_tokens_per_s=12, first_token_ms=200),),
        teacher=model(270_000_000, 20.0, 16.0),
        student=model(92_000_000, 60.0, 5.2),
        floor=model(91_000_000, 62.0, 5.0),
        retention=whole.retention,
        lift_retained=whole.lift_retained,
        win_over_floor=whole.win_over_floor,
        flips_to_wrong=None,
        flips_to_right=None,
        agreement=0.9,
    )


def record(key: str = "k" * 64) -> StageRecord:
    return StageRecord(
        key=key,
        kind="distill",
        method="logits",
        role="student",
        digest="d" * 64,
        bytes=12,
        inputs={"data": "a" * 64, "student": "b" * 64},
        config={"kind": "distill", "epochs": 3, "betas": [0.9, 0.98]},
        footprint=Footprint(kwh=Band(low=0.1, central=0.2, high=0.4), seconds=5.0, tier="modelled"),
        cpu_seconds=7.0,
        peak_rss_mb=300.0,
        started="2026-01-02T03:04:05+00:00",
        measured={"loss": 0.5, "broken": float("nan")},
    )
