"""Promotions, by a run and by hand: `shrink promote | rollback | approve | reject | history | reconcile`.

Whatever becomes champion was admitted before (flows/admit.py), over the version as the registry gives it. What a person
or a run decided is an entry of the model's ledger (registry/promotion.py), and MLflow's aliases follow it.
"""

import getpass
import socket
from pathlib import Path
from typing import Any

from flows import outcome
from flows.admit import admitted
from flows.obtain import Workshop
from flows.servers import client, s3_config, services
from flows.settings import settings
from registry import attested, promotion, standing, store, versions
from registry.promotion import Entry, Judged
from registry.records import ShrinkError, digest_directory


def of_run(shop: Workshop, name: str, version: str, journal: dict[str, Any]) -> None:
    """Make a run's admitted version champion, or say in the journal what it waits for.

    A run leaves alone what a person rejected or rolled back from, and waits where the recipe asks for an approval.
    """
    where = (client(), shop.s3, shop.bucket, lock_of(shop.settings.home, name), name)
    seen = judged(shop.directory / "fetched")
    now = standing.standing(promotion.history(shop.s3, shop.bucket, name, client()))
    journal["waits"] = standing.barred(now, name, version, seen) or rolled_back(now, name, version, seen.digest)
    if journal["waits"]:
        promotion.reconcile(*where)
    else:
        promotion.promote(*where, version, who(), f"passed its gate in run {journal['run_id']}", seen)


def rolled_back(now: standing.Standing, name: str, version: str, digest: str) -> str | None:
    """Why a run does not make a version, or its bytes under another number, champion once more; a person may."""
    alike = (one for one in (version, *now.left) if one in now.left and (one == version or now.digests[one] == digest))
    left = next(alike, None)
    if left is None:
        return None
    entry = now.left[left]
    return (
        f"version {left} of {name} was rolled back from by {entry.who} ({entry.why}); "
        f"`shrink promote {name}@{version} --reason …` makes it champion again."
    )


def promote(model: str, why: str, force: bool) -> Entry:
    """Make a version champion by hand, admitted as in a run. Raises ShrinkError for what must not be promoted."""
    name, version = chosen(model)
    where = (*place(name), name)
    now = standing.standing(promotion.history(*where[1:3], name, where[0]))
    word, tagged = now.words.get(version), promotion.by_tags(where[0], name, version)
    if word is not None and word.action == "approve" and word.digest != tagged.digest:
        raise ShrinkError(standing.barred(now, name, version, tagged.model_copy(update={"asks": True}), force=True))
    seen = judged(outcome.fetched(f"{name}@{version}", settings().home)[1])
    if now.champion != version:
        if reason := standing.barred(now, name, version, seen, force):
            raise ShrinkError(reason)
        result = admitted(name, version, forced=force)
        if not result.passed:
            raise ShrinkError(f"version {version} of {name} is not admitted, nothing was changed: {result.why}")
    return promotion.promote(*where, version, who(), why, seen, force)


def rollback(model: str, why: str) -> Entry:
    """Return to the champion before this one."""
    name = bare(model)
    return promotion.rollback(*place(name), name, who(), why)


def approve(model: str, why: str) -> Entry:
    """A person's word that a version may be promoted, for as many hours as its gate says."""
    name, version = chosen(model)
    directory = outcome.by_ledger(client(), name, version, settings().home / "models" / name / version)
    asked = attested.gate(directory).approval
    hours = asked.hours if asked else promotion.HOURS
    return promotion.approve(*place(name), name, version, who(), why, judged(directory), hours)


def reject(model: str, why: str) -> Entry:
    """A person's word that a version must not be promoted; its files are not looked at, they may be the reason."""
    name, version = chosen(model)
    return promotion.reject(*place(name), name, version, who(), why)


def history(model: str) -> list[Entry]:
    """The entries of a model's ledger, verified."""
    registry, s3, bucket, _ = place(bare(model))
    return promotion.history(s3, bucket, model, registry)


def reconcile(model: str | None) -> dict[str, list[promotion.Moved]]:
    """Make the aliases of a model, or of all that were registered here, follow their ledgers; what did not."""
    if model and not ours(bare(model)):
        raise ShrinkError(f"model '{model}' has no version that was registered here; name another.")
    found = [bare(model)] if model else sorted(str(one.name) for one in client().search_registered_models())
    return {name: promotion.reconcile(*place(name), name) for name in found if model or ours(name)}


def ours(name: str) -> bool:
    """Whether a registered model has a version that was registered here: other programs' aliases are theirs."""
    return any(versions.DIGEST_TAG in one.tags for one in client().search_model_versions(f"name = '{name}'"))


def champion(name: str) -> str | None:
    """The champion by the ledger, whatever the aliases say; None before the first one."""
    registry, s3, bucket, _ = place(name)
    return promotion.champion(s3, bucket, name, registry)


def judged(version: Path) -> Judged:
    """What a verified version's files say of it."""
    asks = attested.gate(version).approval is not None
    digest, evidence = digest_directory(version / "model"), digest_directory(version / "evidence")
    return Judged(digest=digest, evidence=evidence, passed=attested.verdict(version).passed, asks=asks)


def chosen(model: str) -> tuple[str, str]:
    """Name and version number of MODEL@VERSION or MODEL@ALIAS."""
    name, wanted = outcome.split_name(model)
    if "@" not in model:
        raise ShrinkError(f"model is '{model}' but a version is needed; name one: {model}@3 or {model}@challenger.")
    return name, versions.resolve(client(), name, wanted)


def bare(model: str) -> str:
    """A model's name alone."""
    name, _ = outcome.split_name(model)
    if "@" in model:
        raise ShrinkError(f"model is '{model}' but no version is meant here; give '{name}'.")
    return name


def place(name: str) -> tuple[Any, Any, str, Path]:
    """Clients, bucket and lock of a model's ledger."""
    home = settings().home
    found = services(home)
    return client(), store.connect(s3_config(found)), found.bucket, lock_of(home, name)


def lock_of(home: Path, name: str) -> Path:
    """The file that writers of one host take turns by."""
    return home / "locks" / f"promotion-{name}.lock"


def who() -> str:
    """Whoever types or runs this, as user@host."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
