"""Which numbers let a new version go on, and which take it back."""

from typing import Any

import pytest

from flows.serve import lanes, rollout
from flows.serve.rollout import Numbers, Options, Phase, Seen
from registry.records import ShrinkError

OPTIONS = Options(shadow=50, canary=0.1)
OLD = Numbers(requests=100, errors=0, p50_ms=4.0, p95_ms=10.0)
NEW = Numbers(requests=50, errors=0, p50_ms=4.0, p95_ms=11.0)


def seen(**others: Any) -> Seen:
    known: dict[str, Any] = {"seconds": 5.0, "former": OLD, "candidate": NEW, "compared": 50, "agreed": 48}
    return Seen(**known | others)


@pytest.mark.parametrize(
    ("phase", "numbers", "step", "why"),
    [
        ("shadow", {}, "advance", ""),
        ("shadow", {"compared": 49, "agreed": 49}, "wait", ""),
        ("shadow", {"compared": 0, "agreed": 0, "seconds": 601.0}, "advance", ""),
        ("shadow", {"agreed": 36}, "advance", ""),  # 72 %: its interval reaches 83 %
        ("shadow", {"agreed": 30}, "refuse", "in 30 of 50 live requests, which is surely less than 80%"),
        ("shadow", {"compared": 30, "agreed": 5}, "refuse", "in 5 of 30 live requests"),  # others cannot make it good
        ("shadow", {"compared": 12, "agreed": 2}, "wait", ""),
        ("shadow", {"late": 5, "late_ms": 30.0}, "advance", ""),
        ("shadow", {"late": 9, "late_ms": 30.0}, "refuse", "9 of 50 requests took it longer than allowed"),
        ("canary", {"compared": 0, "agreed": 0, "deaths": 1}, "advance", ""),
        ("canary", {"compared": 0, "agreed": 0, "deaths": 2}, "refuse", "its process ended 2 times"),
        ("watch", {"peak_mb": 301.0, "limit_mb": 300.0}, "refuse", "took 301 MB, allowed are 300"),
        ("watch", {"candidate": Numbers(requests=9, errors=3)}, "refuse", "could not answer 3 of 9"),
        ("watch", {"candidate": Numbers(requests=9, errors=2)}, "wait", ""),
        ("canary", {"candidate": NEW.model_copy(update={"errors": 3}), "former": OLD.model_copy(update={"errors": 5})},
         "advance", ""),  # both fail as often: it is the requests
    ],
)  # fmt: skip
def test_numbers_decide(phase: Phase, numbers: dict[str, Any], step: str, why: str) -> None:
    found = rollout.decided(phase, seen(**numbers), OPTIONS)
    assert found.step == step and why in found.why, found


def test_a_version_just_as_good_is_hardly_ever_taken_back() -> None:
    import random

    chance, refused = random.Random(0), 0
    for _ in range(300):
        alike = sum(chance.random() < 0.9 for _ in range(50))
        late = sum(chance.random() < 0.03 for _ in range(50))
        refused += rollout.decided("shadow", seen(agreed=alike, late=late, late_ms=30.0), OPTIONS).step == "refuse"
    assert refused <= 6, refused
    assert rollout.late_ms(10.0) == 30.0


def test_a_machine_that_is_slow_for_a_while_makes_no_version_late_and_a_slow_version_is() -> None:
    """For 12 of 300 seconds all takes 40 times as long; the new one is asked once in five seconds, but always there."""
    old, good, slow, few = (lanes.Tally() for _ in range(4))
    for second in range(300):
        load = 40.0 if 100 <= second < 112 else 1.0
        old.note(5.0 * load, second)
        if load > 1 or second % 5 == 0:
            good.note(6.0 * load, second + 0.4)
            slow.note(25.0 * load, second + 0.4)
    late, limit = good.late(old)
    numbers = good.numbers()
    assert late == 0 and limit == 20.0
    over = sum(spent > rollout.late_ms(old.numbers().p95_ms or 0.0) for _, spent in good.spent())
    alike = {"candidate": numbers, "former": old.numbers(), "late_ms": limit}
    assert over == 12 and rollout.decided("shadow", seen(**alike, late=over), OPTIONS).step == "refuse", (
        "without moments"
    )
    assert rollout.decided("shadow", seen(**alike, late=late), OPTIONS).step == "advance"
    assert slow.late(old)[0] > numbers.requests - 12, "at the edges of such a time the moments are mixed"
    few.note(5.0, 1.0)
    assert good.late(few) == (0, None), "one that was hardly asked is nothing to compare with"


def test_phases_that_are_not_wanted_are_left_out() -> None:
    assert rollout.phases(OPTIONS) == ("shadow", "canary", "watch")
    assert rollout.phases(Options(shadow=0)) == ("canary", "watch")
    assert rollout.phases(Options(shadow=0, canary=0)) == ("watch",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"canary": 1.5}, "canary is 1.5 but must be less than or equal to 1; change --canary."),
        ({"shadow": -1}, "shadow is -1 but must be greater than or equal to 0"),
        ({"memory_mb": 0.0}, "change --memory-mb"),
        ({"batch": 129}, "batch is 129 but must be less than or equal to 128"),
    ],
)
def test_an_option_that_will_not_do_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ShrinkError) as refused:
        rollout.options_of(**given)
    assert said in str(refused.value)
