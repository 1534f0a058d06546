"""What a model's ledger says against a promotion: a person's rejection, a rollback, a champion that came meanwhile."""

from pathlib import Path

from registry import attested
from registry.standing import Judged, Standing, barred


def person(now: Standing, name: str, version: str, seen: Judged) -> str | None:
    """Why a version that passed its gate is rejected all the same: a person's word on it, or on its bytes."""
    return barred(now, name, version, seen.model_copy(update={"passed": True, "asks": False}))


def newer(now: Standing, version: str, seen: Judged, folder: Path) -> str | None:
    """Why the comparison in a version's verified evidence says nothing any more: another champion reigns now."""
    if now.champion in {None, version} or attested.gate(folder).champion_margin is None:
        return None
    rival, reigns = attested.evaluation(folder)[1].champion, now.digests[str(now.champion)]
    if reigns in {seen.digest, None if rival is None else rival.digest}:
        return None
    than = "none" if rival is None else rival.digest[:12]
    return (
        f"champion: it was compared with {than}, and version {now.champion} ({reigns[:12]}) was promoted meanwhile: "
        "run the recipe again, it is compared anew"
    )


def left(now: Standing, name: str, version: str, digest: str) -> str | None:
    """Why a run does not make a version, or its bytes under another number, champion once more; a person may."""
    alike = (one for one in (version, *now.left) if one in now.left and (one == version or now.digests[one] == digest))
    found = next(alike, None)
    if found is None:
        return None
    entry = now.left[found]
    return (
        f"version {found} of {name} was rolled back from by {entry.who} ({entry.why}); "
        f"`shrink promote {name}@{version} --reason …` makes it champion again."
    )
