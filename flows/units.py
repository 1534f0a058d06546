"""Numbers as people read them: three digits, the unit that fits, a dash or words for what is not known; stage names."""

import math
from typing import Any

from registry.card_tables import STATES as STATES
from registry.records import PERPLEXITIES

WRITES = "`shrink generate` or `shrink chat`"  # what a model that writes is asked with


def stage_name(kind: str, method: str | None, role: str) -> str:
    """KIND/METHOD, the teacher's export told from the student's."""
    name = "/".join(part for part in (kind, method) if part)
    return f"{name} (teacher)" if kind in {"export", "compare"} and role == "teacher" else name


def numbered(number: int, stage: Any) -> str:
    """A recipe's stage in a sentence, counted from 1: stage 3 (prune/structured)."""
    return f"stage {number} ({stage_name(stage.kind, getattr(stage, 'method', None), '')})"


def ratio(above: float | None, below: float | None) -> float | None:
    """above / below, or None where that has no meaning."""
    return above / below if above is not None and below else None


def checked(name: str, value: float | None) -> str:
    """The value or the limit of a gate's check of this name, with its unit."""
    if value is None or not math.isfinite(value):
        return "—"
    if name.endswith("_ratio"):
        return f"{number(value)}×"
    if name == "bits_per_weight":
        return f"{number(value)} bits"
    if name.startswith("beat_floor") and name.endswith(PERPLEXITIES):
        return f"{value:+.3g}" if value else "0"
    if name.startswith("noninferiority") and name.endswith(PERPLEXITIES):
        return f"{100 * value:+.1f} %"
    absolute = {"p50_ms": milliseconds, "bytes": size, "peak_rss_mb": lambda mb: size(1e6 * mb)}
    if name in absolute:
        return absolute[name](value)
    shares = name.startswith("retention") or name in {"score", "flips", "behaviour", "leakage"}
    return percent(value) if shares else f"{100 * value:+.1f} points" if value else "0 points"


def number(value: float | None) -> str:
    """Three significant digits without an exponent; a dash for None and for what is no number."""
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def count(value: float | None) -> str:
    """A large count to two or three digits, in words from a million on."""
    if value is None:
        return "—"
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if value >= limit:
            return f"{number(value / limit)} {word}"
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 1000 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as per cent with one digit."""
    return "—" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def energy(kwh: float | None, like: float | None = None) -> str:
    """kWh in the unit that reads best, or that suits `like`."""
    if kwh is None:
        return "not measured"
    size = like or kwh
    if size >= 0.1:
        return f"{number(kwh)} kWh"
    for limit, factor, unit in ((1e-4, 1e3, "Wh"), (1e-7, 1e6, "mWh")):
        if size >= limit:
            return f"{number(kwh * factor)} {unit}"
    return f"{number(kwh * 1e9)} µWh"


def wh(kwh: float | None) -> str:
    """kWh as Wh, for columns and charts that want one unit."""
    return "not measured" if kwh is None else f"{number(kwh * 1000)} Wh"


def mass(grams: float | None) -> str:
    """Grams in the unit that reads best."""
    if grams is None:
        return "not measured"
    return f"{number(grams / 1000)} kg" if grams >= 1000 else f"{number(grams)} g"


def size(value: float | None) -> str:
    """Bytes as decimal kB, MB or GB."""
    if value is None:
        return "—"
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{number(value / limit)} {unit}"
    return f"{value:.0f} B"


def milliseconds(value: float | None) -> str:
    """Milliseconds."""
    return "—" if value is None else f"{number(value)} ms"


def duration(seconds: float) -> str:
    """Seconds as s, min or h."""
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if seconds < 7200 else f"{number(seconds / 3600)} h"


def span(band: dict[str, float] | None, unit: str) -> str:
    """`low to high` of a band in one of the units above (energy, mass, count, number)."""
    if band is None:
        return ""
    if unit == "energy":  # both ends in one unit
        return f"{energy(band['low'], band['high'])} to {energy(band['high'])}"
    write = {"mass": mass, "count": count, "number": number}[unit]
    return f"{write(band['low'])} to {write(band['high'])}"


def small(value: float) -> str:
    """Two digits, with an exponent where it is tiny."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.2g}"


def compared(seen: dict[str, Any]) -> str:
    """How far an export's answers are from its source's, in one line."""
    apart = f"at most {small(seen['largest'])} apart, {small(seen['mean'])} on average"
    unit = seen.get("unit", "text")
    same = f"{percent(seen['agreement'])} of {seen['texts']} {unit}s with the same"
    if seen.get("cosine") is not None:
        return f"{same} nearest text, cosine at least {seen['cosine']:.5f}; numbers {apart}"
    return f"{same} {'likeliest next one' if unit == 'token' else 'label'}; logits {apart}"
