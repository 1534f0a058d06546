"""The champion that reigns, as an evaluation's further role: whether it answers the same question, and its record."""

from collections.abc import Callable
from pathlib import Path

from registry.records import Difference, Rival, digest_directory
from tasks import layout

SAME = ("task", "labels", "pairs", "multi_label")  # keys of config.json that make answers comparable


def unlike(student: Path, champion: Path) -> str | None:
    """Why their answers cannot be compared, or None where they can."""
    own, theirs = (layout.read_json(directory / "config.json") for directory in (student, champion))
    for key in SAME:
        if (own.get(key) or None) != (theirs.get(key) or None):
            return f"its {key} are not those of the student"
    return None


def comparable(inputs: dict[str, Path]) -> bool:
    """Whether there is a champion among the inputs whose answers can be compared with the student's."""
    return "champion" in inputs and unlike(inputs["student"], inputs["champion"]) is None


def rival(inputs: dict[str, Path], against: Callable[[], Difference]) -> Rival | None:
    """The record of the champion among the inputs; None where none reigns, or the gate does not ask for it."""
    if "champion" not in inputs:
        return None
    reason = unlike(inputs["student"], inputs["champion"])
    digest = digest_directory(inputs["champion"])
    return Rival(digest=digest, against=None if reason else against(), left_out=reason)
