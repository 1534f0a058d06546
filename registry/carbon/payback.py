"""When a compression has repaid its own energy (and money), and how much compute is left for how much quality.

The band is the widest that the bounds allow: the least cost over the most saved with each inference, and the most over
the least. Teacher and student are metered alike, so like bounds of the two are subtracted from each other.
"""

from pydantic import BaseModel

from registry.carbon.inputs import Basis, Prices
from registry.records import STRICT, Across, Band, Interval, Seconds, Served, ServingEnergy, scaled

PROMISED_COMPUTE, PROMISED_QUALITY = (0.10, 0.20), (0.90, 0.95)  # the promise of compression that ours is held against


class Payback(BaseModel):
    """Inferences after which the student has saved what making it cost; None = never or unknown, `why` says which."""

    model_config = STRICT
    requests: Band | None
    why: str


class Point(BaseModel):
    """What so many inferences have saved in all, less what making the student took; below 0 it is not yet repaid."""

    model_config = STRICT
    requests: float
    net_kwh: Band


class Money(BaseModel):
    """The same in money; None where a price or a figure is not known, and `why` says which."""

    model_config = STRICT
    currency: str | None
    spent: Band | None
    teacher_per_1000: Band | None
    student_per_1000: Band | None
    payback: Payback


class Share(BaseModel):
    """The student's part of the teacher's compute: the median over windows and how far single windows lie from it."""

    model_config = STRICT
    of: str  # CPU seconds, multiply-adds or energy
    share: float
    least: float
    most: float


def break_even(cost: Band | None, teacher: Band | None, student: Band | None, of: str = "energy") -> Payback:
    """From what making the student took and what 1,000 inferences take, in one unit (kWh, or money)."""
    if cost is None:
        return Payback(requests=None, why=f"unknown: the {of} spent was not measured")
    if teacher is None or student is None:
        return Payback(requests=None, why=f"unknown: the {of} of an inference was not measured")
    saved = _saved(teacher, student)
    if saved[1] <= 0.0:
        return Payback(requests=None, why=f"never: the student takes no less {of} for an inference than the teacher")
    if min(saved) <= 0.0:
        return Payback(requests=None, why="unknown: within its uncertainty the student may save nothing")
    requests = Band(
        low=1000.0 * cost.low / max(saved),
        central=1000.0 * cost.central / saved[1],
        high=1000.0 * cost.high / min(saved),
    )
    return Payback(requests=requests, why=f"{of} spent divided by the {of} saved with each inference")


def curve(cost: Band | None, teacher: Band | None, student: Band | None, last: float, steps: int) -> tuple[Point, ...]:
    """Net saving from kWh spent and Wh of an inference, from 0 to `last` inferences; nothing where one is unknown.

    Its bounds cross 0 where the break-even's bounds lie.
    """
    if cost is None or teacher is None or student is None:
        return ()
    saved = _saved(teacher, student)
    counts = [last * step / steps for step in range(steps + 1)]
    return tuple(
        Point(
            requests=count,
            net_kwh=Band(
                low=count * min(saved) / 1000.0 - cost.high,
                central=count * saved[1] / 1000.0 - cost.central,
                high=count * max(saved) / 1000.0 - cost.low,
            ),
        )
        for count in counts
    )


def money(cost: Band | None, seconds: Seconds, serving: ServingEnergy | None, basis: Basis) -> Money:
    """Of the energy and the machine's time that making took, and of 1,000 inferences of either model."""
    prices = basis.prices
    if prices is None or (prices.kwh is None and prices.machine_hour is None):
        none = Payback(requests=None, why="not reported: no price of a kWh or of a machine's hour is given")
        return Money(currency=None, spent=None, teacher_per_1000=None, student_per_1000=None, payback=none)
    spent = _priced(cost, seconds, prices, basis.overhead)
    teacher = _served_price(serving.teacher, prices, basis) if serving else None
    student = _served_price(serving.student, prices, basis) if serving else None
    found = break_even(spent, teacher, student, "money")
    return Money(
        currency=prices.currency, spent=spent, teacher_per_1000=teacher, student_per_1000=student, payback=found
    )


def shares(serving: ServingEnergy) -> tuple[Share, ...]:
    """The student's part of the teacher's compute: CPU seconds, multiply-adds where known, energy where measured."""
    teacher, student = serving.teacher, serving.student
    found = [_share("CPU seconds", teacher.cpu_seconds_per_1000, student.cpu_seconds_per_1000)]
    if teacher.macs_per_inference and student.macs_per_inference is not None:
        part = student.macs_per_inference / teacher.macs_per_inference
        found.append(Share(of="multiply-adds", share=part, least=part, most=part))
    if teacher.wh_per_1000_across and student.wh_per_1000_across:
        found.append(_share("energy", teacher.wh_per_1000_across, student.wh_per_1000_across))
    return tuple(one for one in found if one is not None)


def compute_sentence(serving: ServingEnergy | None, retention: Interval | None) -> str:
    """Whether this is "10-20 % of the compute at 90-95 % of the quality": our own figures beside that promise."""
    found = shares(serving) if serving else ()
    if serving is None or not found or retention is None:
        return "How much compute is left for how much quality is not known: serving was not measured, or no quality."
    listed = ", ".join(f"{_percent(one.share)} of the {one.of}{_around(one)}" for one in found)
    quality = f"{_percent(retention.point)} of the quality [{_percent(retention.low)}, {_percent(retention.high)}]"
    time = " (no counter was read: the share of energy is the share of time)" if serving.ratio_is_time else ""
    return (
        f"The student answers with {listed}{time} at {quality}; the promise of 10-20 % of the compute at 90-95 % "
        f"of the quality is {_promise(found[0].share, retention.point)}."
    )


def request_kwh(wh_per_1000: Band | None) -> Band | None:
    """kWh of 1,000 inferences, for `break_even` and `curve`."""
    return scaled(wh_per_1000, 1e-3) if wh_per_1000 else None


def _promise(compute: float, quality: float) -> str:
    cheap, good = compute <= PROMISED_COMPUTE[1], quality >= PROMISED_QUALITY[0]
    more = " and surpassed" if compute < PROMISED_COMPUTE[0] or quality > PROMISED_QUALITY[1] else ""
    if cheap and good:
        return f"kept{more}"
    if cheap:
        return f"kept in compute, missed in quality by {_percent(PROMISED_QUALITY[0] - quality)}"
    if good:
        return f"kept in quality, missed in compute: {compute / PROMISED_COMPUTE[1]:.2g} times the 20 %"
    return "missed in both"


def _saved(teacher: Band, student: Band) -> tuple[float, float, float]:
    return teacher.low - student.low, teacher.central - student.central, teacher.high - student.high


def _priced(kwh: Band | None, seconds: float, prices: Prices, overhead: float) -> Band | None:
    """Energy and hours at their prices; None where the energy has a price and was not measured."""
    hours = seconds / 3600.0 * (prices.machine_hour or 0.0)
    if prices.kwh is None:
        return Band(low=hours, central=hours, high=hours)
    if kwh is None:
        return None
    low, central, high = (value * overhead * prices.kwh + hours for value in (kwh.low, kwh.central, kwh.high))
    return Band(low=low, central=central, high=high)


def _served_price(served: Served, prices: Prices, basis: Basis) -> Band | None:
    return _priced(request_kwh(served.wh_per_1000), served.seconds_per_1000.median, prices, basis.overhead)


def _share(of: str, teacher: Across, student: Across) -> Share | None:
    if min(teacher.least, teacher.median) <= 0.0:
        return None
    return Share(
        of=of,
        share=student.median / teacher.median,
        least=student.least / teacher.most,
        most=student.most / teacher.least,
    )


def _around(one: Share) -> str:
    return f" [{_percent(one.least)}, {_percent(one.most)}]" if one.least < one.most else ""


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.095 else f"{100 * share:.3g} %"
