"""How figures are rounded: two significant digits where one stands alone, tables whose shown parts add up.

A column of a table has one unit and one number of decimals. Its total is rounded as usual, its parts so that they add
up to that (largest remainders), so a shown part is less than one unit of the last digit from its own rounding.
"""

import math
from collections.abc import Sequence

ENERGY = ((1e-3, "MWh"), (1.0, "kWh"), (1e3, "Wh"), (1e6, "mWh"), (1e9, "µWh"))
MASS = ((1e-6, "t"), (1e-3, "kg"), (1.0, "g"), (1e3, "mg"), (1e6, "µg"))


def unit_of(value: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """Factor and name of the largest unit in which a value is 1 or more."""
    return next(((factor, name) for factor, name in units if abs(value) * factor >= 1.0), units[-1])


def two(value: float) -> str:
    """Two significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "—"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    digits = 1 - math.floor(math.log10(abs(rounded)))  # 0.0996 becomes 0.10
    return f"{rounded:,.{max(0, digits)}f}"


def energy(kwh: float | None) -> str:
    """kWh to two digits in the unit that fits."""
    return "not measured" if kwh is None else _with_unit(kwh, ENERGY)


def mass(grams: float | None) -> str:
    """Grams to two digits in the unit that fits."""
    return "not measured" if grams is None else _with_unit(grams, MASS)


def count(value: float) -> str:
    """A number of requests to two digits, with words from a million on."""
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if value >= limit:
            return f"{two(value / limit)} {word}"
    return two(value)


def between(low: float, high: float, kind: str) -> str:
    """`low to high`, both ends in the unit of the higher one."""
    if kind == "count":
        return f"{count(low)} to {count(high)}"
    factor, name = unit_of(high, ENERGY if kind == "energy" else MASS)
    return f"{two(low * factor)} to {two(high * factor)} {name}"


def decimals(total: float) -> int:
    """Digits behind the point that give a total three significant ones at least."""
    return max(0, 2 - math.floor(math.log10(abs(total)))) if total else 0


def column(parts: Sequence[float | None], places: int) -> tuple[list[str | None], str]:
    """Parts and their total as they are shown: rounded so that the shown parts add up to the shown total."""
    scale = 10**places
    known = [(place, part * scale) for place, part in enumerate(parts) if part is not None]
    total = round(math.fsum(part for part in parts if part is not None) * scale)
    whole = {place: math.floor(value) for place, value in known}
    missing = total - sum(whole.values())
    by_remainder = sorted(known, key=lambda one: (whole[one[0]] - one[1], one[0]))
    for place, _ in by_remainder[:missing]:
        whole[place] += 1
    shown = [f"{whole[place] / scale:,.{places}f}" if place in whole else None for place in range(len(parts))]
    return shown, f"{total / scale:,.{places}f}"


def _with_unit(value: float, units: Sequence[tuple[float, str]]) -> str:
    factor, name = unit_of(value, units)
    shown = two(value * factor)
    if shown == "1,000" and name != units[0][1]:  # 999.6 Wh is 1.0 kWh
        factor, name = units[[unit for _, unit in units].index(name) - 1]
        shown = two(value * factor)
    return f"{shown} {name}"
