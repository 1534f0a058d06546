"""MLflow's aliases `champion`, `challenger`, `previous` as a projection of a ledger, for people and MLflow's clients.

The challenger is the newest version that passed its gate, is newer than the champion, was never champion and was not
rejected by a person. Other aliases are left alone.
"""

import time
from typing import Any, NamedTuple

from registry import ledger, versions
from registry.ledger import Entry
from registry.standing import Standing, standing

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
LOOKS = 30  # at the aliases, until they are as the ledger says


class Book(NamedTuple):
    """One model's ledger: the clients, the bucket, whose it is."""

    client: Any
    s3: Any
    bucket: str
    name: str


class Moved(NamedTuple):
    """An alias that did not follow the ledger and was made to."""

    alias: str
    was: str | None
    now: str | None


def project(book: Book, entries: list[Entry]) -> list[Entry]:
    """Move the aliases until they read as the ledger's end says, which may move on meanwhile; returns the ledger.

    Whoever moved an alias looks at the ledger once more: a late one cannot leave an older state behind.
    """
    from mlflow.exceptions import MlflowException

    for _ in range(LOOKS):
        wanted, seen = following(book.client, book.name, standing(entries)), aliases(book.client, book.name)
        wrong = {alias: version for alias, version in wanted.items() if seen.get(alias) != version}
        try:
            for alias, version in wrong.items():
                if version is None:
                    book.client.delete_registered_model_alias(book.name, alias)
                else:
                    book.client.set_registered_model_alias(book.name, alias, version)
        except MlflowException as error:
            if not str(error.error_code).startswith(("BAD_REQUEST", "INTERNAL_ERROR")):
                raise
            time.sleep(0.2)  # two that make an alias at once: one of them is answered so
        newer = ledger.catch_up(book.s3, book.bucket, book.name, entries)
        if not wrong and len(newer) == len(entries):
            return entries
        entries = newer
    raise RuntimeError(f"the aliases of {book.name} read {seen} after they were set to {wanted}: run it again")


def following(client: Any, name: str, now: Standing) -> dict[str, str | None]:
    """The aliases as they are to be, the champion's last; none where MLflow has lost the version."""
    wanted = {PREVIOUS: now.previous, CHALLENGER: challenger(client, name, now), CHAMPION: now.champion}
    there = {str(one.version) for one in client.search_model_versions(f"name = '{name}'")}
    return {alias: version if version in there else None for alias, version in wanted.items()}


def challenger(client: Any, name: str, now: Standing) -> str | None:
    """The version that would be promoted next, or None."""
    found = client.search_model_versions(f"name = '{name}'")
    passed = [str(one.version) for one in found if one.tags.get(versions.VERDICT_TAG) == versions.PASSED]
    least = int(now.champion or 0)
    free = [one for one in passed if int(one) > least and one not in now.promoted and not now.rejected(one)]
    return max(free, key=int, default=None)


def aliases(client: Any, name: str) -> dict[str, str]:
    """The aliases of a model as MLflow has them."""
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
