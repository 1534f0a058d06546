"""Promotions, by a run and by hand: `shrink promote | rollback | approve | reject | history | reconcile`.

Whatever becomes champion was admitted before (flows/admit.py), over the version as the registry gives it. What a person
or a run decided is an entry of the model's ledger (registry/promotion.py), and MLflow's aliases follow it.
"""

import getpass
import socket
from pathlib import Path
from typing import Any, NamedTuple

from flows import against, keys, named
from flows.admit import admitted, mark_refused
from flows.obtain import Workshop
from flows.servers import client, s3_config, services
from flows.settings import settings
from registry import attested, listing, promotion, standing, store, versions
from registry.ledger import CorruptLedger
from registry.promotion import Entry, Judged
from registry.records import ShrinkError, digest_directory
from registry.standing import Standing


def of_run(shop: Workshop, name: str, version: str, journal: dict[str, Any]) -> None:
    """Make a run's admitted version champion, or say in the journal what it waits for, or why it was refused.

    A run leaves alone what a person rejected or rolled back from, and waits where the recipe asks for an approval. All
    of this is asked of the ledger as it is when the entry is written.
    """
    where = (client(), shop.s3, shop.bucket, lock_of(shop.settings.home, name), name)
    folder, held = shop.directory / "fetched", keys.of_ledger(shop.settings)
    why, seen = f"passed its gate in run {journal['run_id']}", judged(folder)

    def refuses(now: Standing) -> str | None:
        return against.person(now, name, version, seen) or against.newer(now, version, seen, folder)

    def waits(now: Standing) -> str | None:
        return standing.barred(now, name, version, seen) or against.left(now, name, version, seen.digest)

    def unless(now: Standing) -> str | None:
        return refuses(now) or waits(now)

    try:
        promotion.promote(*where, version, who(), why, seen, keys=held, unless=unless)
    except promotion.Overtaken:
        now = standing.standing(promotion.history(*where[1:3], name, where[0], held.trust))
        refused = refuses(now) or ""
        journal.update(refused=refused, waits=None if refused else waits(now))
        if refused:
            mark_refused(name, version, refused)
        promotion.reconcile(*where, held)


class Ended(NamedTuple):
    """How a promotion by hand ended: an entry, which may be of before, or why the version was not admitted."""

    entry: Entry | None
    refused: str = ""
    before: bool = False  # it was champion already, and nothing was to be done


def promote(model: str, why: str, force: bool) -> Ended:
    """Make a version champion by hand, admitted as in a run. Raises ShrinkError for what must not be promoted."""
    name, version = chosen(model)
    where, held = (*place(name), name), keys.of_ledger(settings())
    entries = promotion.history(*where[1:3], name, where[0], held.trust)
    now, open_still = standing.standing(entries), bool(entries) and entries[-1].event == "intent"
    word, tagged = now.words.get(version), promotion.by_tags(where[0], name, version)
    if word is not None and word.action == "approve" and word.digest != tagged.digest:
        raise ShrinkError(standing.barred(now, name, version, tagged.model_copy(update={"asks": True}), force=True))
    try:
        folder = named.fetched(f"{name}@{version}", settings().home)[1]
        seen = judged(folder)
    except (versions.CorruptVersion, attested.Incomplete) as error:
        mark_refused(name, version, f"{error}")
        promotion.reconcile(*where, held)  # what was refused is no challenger
        return Ended(None, f"{error}")
    if now.champion == version:
        entry = promotion.promote(*where, version, who(), why, seen, force, held)
        return Ended(entry, before=not open_still)
    if reason := standing.barred(now, name, version, seen, force):
        raise ShrinkError(reason)
    result = admitted(name, version, forced=force)
    if not result.passed:
        promotion.reconcile(*where, held)  # what was refused is no challenger
        return Ended(None, result.why)

    def unless(late: Standing) -> str | None:
        return None if force else against.newer(late, version, seen, folder)

    try:
        return Ended(promotion.promote(*where, version, who(), why, seen, force, held, unless))
    except promotion.Overtaken as error:
        return Ended(None, f"{error}")


def rollback(model: str, why: str) -> Entry:
    """Return to the champion before this one."""
    name = bare(model)
    return promotion.rollback(*place(name), name, who(), why, keys.of_ledger(settings()))


def approve(model: str, why: str) -> Entry:
    """A person's word that a version may be promoted, for as many hours as its gate says."""
    name, version = chosen(model)
    directory = named.by_ledger(client(), name, version, settings().home / "models" / name / version)
    asked = attested.gate(directory).approval
    hours = asked.hours if asked else promotion.HOURS
    return promotion.approve(
        *place(name), name, version, who(), why, judged(directory), hours, keys.of_ledger(settings())
    )


def reject(model: str, why: str) -> Entry:
    """A person's word that a version must not be promoted; its files are not looked at, they may be the reason."""
    name, version = chosen(model)
    return promotion.reject(*place(name), name, version, who(), why, keys=keys.of_ledger(settings()))


def history(model: str) -> list[Entry]:
    """The entries of a model's ledger, verified."""
    registry, s3, bucket, _ = place(bare(model))
    return promotion.history(s3, bucket, model, registry, keys.trust(settings()))


def reconcile(model: str | None) -> dict[str, list[promotion.Moved]]:
    """Make the aliases of a model, or of all that were registered here, follow their ledgers; what did not."""
    if model and not listing.ours(client(), bare(model)):
        raise ShrinkError(f"model '{model}' has no version that was registered here; name another.")
    moved, broken = {}, []
    for name in [bare(model)] if model else listing.models(client()):
        if not model and not listing.ours(client(), name):
            continue
        try:
            moved[name] = promotion.reconcile(*place(name), name, keys.of_ledger(settings()))
        except CorruptLedger as error:  # the others' are put right all the same
            broken.append(f"{error}")
    if broken:
        raise CorruptLedger("; ".join(broken))
    return moved


def champion(name: str) -> str | None:
    """The champion by the ledger, whatever the aliases say; None before the first one."""
    registry, s3, bucket, _ = place(name)
    return promotion.champion(s3, bucket, name, registry, keys.trust(settings()))


def judged(version: Path) -> Judged:
    """What a verified version's files say of it."""
    asks = attested.gate(version).approval is not None
    digest, evidence = digest_directory(version / "model"), digest_directory(version / "evidence")
    return Judged(digest=digest, evidence=evidence, passed=attested.verdict(version).passed, asks=asks)


def chosen(model: str) -> tuple[str, str]:
    """Name and version number of MODEL@VERSION or MODEL@ALIAS."""
    name, wanted = named.split_name(model)
    if "@" not in model:
        raise ShrinkError(f"model is '{model}' but a version is needed; name one: {model}@3 or {model}@challenger.")
    return name, versions.resolve(client(), name, wanted)


def bare(model: str) -> str:
    """A model's name alone."""
    name, _ = named.split_name(model)
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
