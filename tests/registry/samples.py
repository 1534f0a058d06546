"""Small records that the tests of registry share."""

from registry.records import Band, Evaluation, Footprint, Interval, ModelScore, StageRecord


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
