"""Which weight takes which grid when all together may take so many bits: by the error that each grid was seen to make.

Every weight starts on its smallest grid; the step that takes away most error for a bit comes next, until none fits any
more. Steps go along each weight's lower convex hull, so that this is the best choice but for the last steps (the greedy
solution of the multiple-choice knapsack's relaxation; Sinha and Zoltners 1979). Pure functions of numbers.
"""

from typing import NamedTuple

from registry.records import ShrinkError


class Choice(NamedTuple):
    """One grid for one weight."""

    grid: str
    bits: float  # of the whole weight
    error: float


def hull(choices: list[Choice]) -> list[Choice]:
    """The choices that no mixture of others beats, from the smallest on."""
    found: list[Choice] = []
    for one in sorted(choices, key=lambda one: (one.bits, one.error)):
        if found and one.error >= found[-1].error:
            continue
        while len(found) > 1 and gain(found[-2], one) >= gain(found[-2], found[-1]):
            found.pop()
        if found and one.bits == found[-1].bits:
            continue
        found.append(one)
    return found


def gain(small: Choice, large: Choice) -> float:
    """Error that a bit takes away between two choices."""
    return (small.error - large.error) / (large.bits - small.bits)


def choose(weights: dict[str, list[Choice]], budget: float) -> dict[str, Choice]:
    """A grid for every weight, all together within the budget of bits; ShrinkError when the smallest do not fit."""
    edges = {name: hull(choices) for name, choices in weights.items()}
    taken = dict.fromkeys(edges, 0)
    spent = sum(edge[0].bits for edge in edges.values())
    if spent > budget:
        raise ShrinkError(f"target asks for {budget:.0f} bits but the smallest grids take {spent:.0f}: raise it.")
    while True:
        steps = [
            (gain(edge[at], edge[at + 1]), name)
            for name, edge in edges.items()
            if (at := taken[name]) + 1 < len(edge) and spent + edge[at + 1].bits - edge[at].bits <= budget
        ]
        if not steps:
            return {name: edges[name][at] for name, at in taken.items()}
        name = max(steps, key=lambda step: (step[0], step[1]))[1]
        spent += edges[name][taken[name] + 1].bits - edges[name][taken[name]].bits
        taken[name] += 1
