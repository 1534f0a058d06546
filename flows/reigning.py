"""The champion that a student would replace, fetched and verified, for the evaluation to compare with.

A student that reigns already is compared with the champion before it, as it was when it was judged: so a recipe that
is run again finds its evaluation again.
"""

from pathlib import Path

from flows import keys, named
from flows.obtain import Workshop, digest_of
from flows.recipe import Recipe
from flows.servers import client
from registry import promotion
from registry.standing import standing

CHAMPION = "champion"


def inputs(shop: Workshop, recipe: Recipe, student: Path) -> dict[str, Path]:
    """{champion: its model's directory}; nothing where the gate does not ask for it or none reigns but the student.

    Raises CorruptVersion where the registry does not hold what the ledger names.
    """
    if recipe.gate.champion_margin is None:
        return {}
    version = before(shop, recipe.name, digest_of(shop, student))
    if version is None:
        return {}
    where = shop.settings.home / "models" / recipe.name / version
    return {CHAMPION: named.by_ledger(client(), recipe.name, version, where) / "model"}


def before(shop: Workshop, name: str, digest: str) -> str | None:
    """The newest champion by the ledger that is another model than this one and was not withdrawn."""
    entries = promotion.history(shop.s3, shop.bucket, name, trust=keys.trust(shop.settings))
    now = standing(entries)
    reigned = [
        entry.target
        for entry in entries
        if entry.event == "done" and entry.counts and entry.moves and entry.digest != digest
    ]
    return next((one for one in reversed(reigned) if one in now.line or not now.rejected(one)), None)


def digest(shop: Workshop, found: dict[str, Path]) -> str | None:
    """The digest of the champion among the inputs, if there is one."""
    return digest_of(shop, found[CHAMPION]) if CHAMPION in found else None
