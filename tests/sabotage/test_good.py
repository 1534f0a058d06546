"""Good candidates that differ in what does not matter: every one is promoted."""

import pytest

from flows import admit
from tests.sabotage.factory import Candidate, Yard


@pytest.mark.parametrize("name", ["fp32", "int8", "int4"])
def test_sabotage_spares_what_is_sound(yard: Yard, sound: dict[str, Candidate], name: str) -> None:
    version = yard.register(f"good-{name}", sound[name])
    found = admit.admitted(f"good-{name}", version)
    assert found.passed, found.why
    assert {one.name for one in found.checks} >= {"score", "golden", "signature", "verdict", "provenance", "licence"}
