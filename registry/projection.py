"""MLflow's aliases `champion`, `challenger`, `previous` as a projection of a ledger, for people and MLflow's clients.

The challenger is the newest version that passed its gate, was not refused at its admission, is newer than the champion,
was never champion and was not rejected by a person. Other aliases are left alone.
"""

import time
from typing import Any, NamedTuple

from registry import ledger, versions
from registry.ledger import Entry
from registry.records import ShrinkError
from registry.sealing import Keys
from registry.standing import Standing, standing

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
LOOKS = 30  # at the aliases, until they are as the ledger says


class Book(NamedTuple):
    """One model's ledger: the clients, the bucket, whose it is, and the keys; without any nothing is signed."""

    client: Any
    s3: Any
    bucket: str
    name: str
    keys: Keys | None = None

    def read(self) -> list[Entry]:
        """All that it holds, verified."""
        return ledger.read(self.s3, self.bucket, self.name, self.client, self.keys.trust if self.keys else None)

    def newer(self, entries: list[Entry]) -> list[Entry]:
        """These entries and all that were appended since, verified."""
        return ledger.catch_up(self.s3, self.bucket, self.name, entries, self.keys.trust if self.keys else None)

    def append(self, entry: Entry) -> Entry:
        """One entry more, signed; raises Taken when another writer was first, ShrinkError where no key signs."""
        if self.keys is not None and self.keys.signer is None:
            raise ShrinkError(
                "SHRINK_SIGNING_KEY is not set and no key signs here: a ledger's entries are signed; name a key."
            )
        return ledger.append(self.s3, self.bucket, entry, self.keys.signer if self.keys else None)


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
        newer = book.newer(entries)
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
    fit = [one for one in found if one.tags.get(versions.ADMISSION_TAG) != versions.REFUSED]
    passed = [str(one.version) for one in fit if one.tags.get(versions.VERDICT_TAG) == versions.PASSED]
    least = int(now.champion or 0)
    free = [one for one in passed if int(one) > least and one not in now.promoted and not now.rejected(one)]
    return max(free, key=int, default=None)


def aliases(client: Any, name: str) -> dict[str, str]:
    """The aliases of a model as MLflow has them."""
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
