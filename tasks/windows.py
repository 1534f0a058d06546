"""Energy of serving: teacher and student answer the same inputs in windows that take turns, metered from outside.

The stage's process answers and says on its output when a window begins and ends (tasks/progress.py); the parent, which
holds the meter, cuts its slices there (tasks/carbon.py) and fills the energy in. Windows take turns, so that whatever
else loads the machine hits all models alike; each is long enough for two slices of the meter, unless the models are
toys or the evaluation's `rounds` are few.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from registry.records import Across, Band, Part, Seconds, Served, ServingEnergy, Tier, Window, scaled
from tasks import bench, pairs, progress, runtime
from tasks.meter.summing import tier

ROLES = ("teacher", "student")
TURNS = 5  # windows of each model
LONGEST = 2.5  # seconds of a window
SHORTEST = 1.0  # seconds of two slices of the meter, which reads twice a second in a window (tasks/carbon.py)
REQUESTS, ANSWERS = 3, 2  # that a window lasts, a round of the evaluation: short ones, and whole written answers
MOST_INPUTS = 32  # that a window goes through, again and again
Unit = Literal["request", "written token"]
Call = Callable[[int], int]  # answers an input by its number; returns how many inferences that was
Metered = tuple[Band | None, float]  # energy of a window, None where not measured, over so many seconds


def of_encoders(directories: Mapping[str, Path], texts: Sequence[pairs.Text], rounds: int) -> ServingEnergy:
    """Serve texts one a request with the exported encoders of teacher and student, at one thread."""
    chosen = spread_over(texts, MOST_INPUTS)
    answer = {role: bench.caller(path) for role, path in directories.items()}
    calls = {role: answering(one, chosen) for role, one in answer.items()}
    macs = {role: bench.macs(path, tokens(path, chosen)) for role, path in directories.items()}
    return taken(calls, len(chosen), REQUESTS * rounds, macs, "request")


def answering(call: bench.Call, texts: Sequence[pairs.Text]) -> Call:
    """One request at a time."""

    def one(place: int) -> int:
        call([texts[place]])
        return 1

    return one


def tokens(directory: Path, texts: Sequence[pairs.Text]) -> int:
    """Tokens of a text in the middle."""
    encoder = runtime.tokenizer(directory)
    return int(np.median([len(encoder.encode(*pairs.parts(text)).ids) for text in texts]))


def spread_over(texts: Sequence[pairs.Text], most: int) -> list[pairs.Text]:
    """So many texts at most, from all over."""
    return list(texts[:: max(1, -(-len(texts) // most))])


def taken(
    calls: Mapping[str, Call], inputs: int, requests: int, macs: Mapping[str, int | None], unit: Unit
) -> ServingEnergy:
    """Let teacher and student take turns in windows; energy is not in it yet.

    A window goes through the same inputs, whole, until it has lasted as long as so many requests to the slower model,
    LONGEST seconds at most: less only where models are so small that it would take longer than all their scores.
    """
    slowest = max(timed(call, inputs) for call in calls.values())
    seconds = seconds_of(slowest, requests)
    inputs = max(1, min(inputs, int(seconds / 2 / slowest)))
    windows: dict[str, list[Window]] = {role: [] for role in calls}
    roles = list(calls)
    gc.collect()
    for turn in range(TURNS):
        for step in range(len(roles)):
            role = roles[(turn + step) % len(roles)]
            windows[role].append(window(f"{role}.{turn}", calls[role], inputs, seconds))
    served = {role: summary(tuple(each), macs[role]) for role, each in windows.items()}
    return ServingEnergy(unit=unit, teacher=served["teacher"], student=served["student"], why="nobody metered it")


def seconds_of(slowest: float, requests: int) -> float:
    """Seconds of a window, by those of a request to the slower model."""
    return min(LONGEST, requests * slowest)


def timed(call: Call, inputs: int) -> float:
    """Seconds of a request, the median of a few behind one that warms up."""
    call(0)
    spent = []
    for place in range(min(5, inputs)):
        began = time.perf_counter()
        call(place)
        spent.append(time.perf_counter() - began)
    return max(1e-6, float(np.median(spent)))


def window(label: str, call: Call, inputs: int, seconds: float) -> Window:
    """Answer the inputs, whole, again and again for so long; once at least, however late the machine gives its time."""
    progress.window(label)
    done, began, used = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - began < seconds:
        done += sum(call(place) for place in range(inputs))
    took = Window(
        seconds=Seconds(time.perf_counter() - began),
        inferences=done,
        cpu_seconds=Seconds(time.process_time() - used),
    )
    progress.window(None)
    return took


def summary(windows: tuple[Window, ...], macs: int | None) -> Served:
    """Median and spread over the windows, for a thousand inferences."""
    bands = [scaled(one.kwh, 1e6 / one.inferences) for one in windows if one.kwh is not None]  # Wh of a thousand
    whole = len(bands) == len(windows)
    return Served(
        windows=windows,
        macs_per_inference=macs,
        cpu_seconds_per_1000=across([1000 * one.cpu_seconds / one.inferences for one in windows]),
        seconds_per_1000=across([1000 * one.seconds / one.inferences for one in windows]),
        wh_per_1000=middle(bands) if whole else None,
        wh_per_1000_across=across([one.central for one in bands]) if whole else None,
    )


def across(values: list[float]) -> Across:
    """Median, least and most."""
    return Across(median=float(np.median(values)), least=min(values), most=max(values))


def middle(bands: list[Band]) -> Band:
    """The median of each bound."""
    low, central, high = (float(np.median([getattr(one, end) for one in bands])) for end in ("low", "central", "high"))
    return Band(low=low, central=central, high=high)


def filled(
    serving: ServingEnergy, metered: Callable[[str], Metered], tiers: dict[Part, Tier], shared: str | None
) -> ServingEnergy:
    """The same with the energy of each window, as the meter has it by the window's name.

    The meter cuts a few milliseconds behind the model, so a window counts at the mean power of its slices.
    """
    served: dict[str, Served] = {}
    for role, one in (("teacher", serving.teacher), ("student", serving.student)):
        windows = []
        for turn, own in enumerate(one.windows):
            band, seconds = metered(f"{role}.{turn}")
            kwh = scaled(band, own.seconds / seconds) if band is not None and seconds > 0 else None
            windows.append(own.model_copy(update={"kwh": kwh}))
        served[role] = summary(tuple(windows), one.macs_per_inference)
    failed = sum(own.kwh is None for one in served.values() for own in one.windows)
    shortest = min(own.seconds for one in served.values() for own in one.windows)
    why = None
    if failed:
        why = f"{failed} of {2 * TURNS} windows were not metered"
    elif shortest < SHORTEST:
        why = f"an indication: a window of {shortest:.2g} s is shorter than two slices of the meter; raise `rounds`"
    counted = tiers.get("cpu") == "counter"
    known = {"tier": "unmeasured" if failed else tier(tiers), "ratio_is_time": not counted, "shared_with": shared}
    return serving.model_copy(update={**served, **known, "why": why})
