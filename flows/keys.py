"""Which key signs here and which are trusted: those that `shrink up` made, or those that the environment names.

SHRINK_SIGNING_KEY names another private key, SHRINK_TRUSTED_KEYS other public ones. Where only the first is set, its
own public half is trusted.
"""

import os
from pathlib import Path

from flows.settings import Settings
from infra import keys
from registry import signing
from registry.records import ShrinkError
from registry.sealing import Keys
from registry.signing import Signer, Trust

SIGNING, TRUSTED = "SHRINK_SIGNING_KEY", "SHRINK_TRUSTED_KEYS"


def signer(here: Settings) -> Signer:
    """The private key that signs what is registered here. Raises ShrinkError."""
    if here.signing_key is not None:
        return signing.signer(here.signing_key, SIGNING)
    path = keys.folder(here.home) / keys.KEY
    if not path.exists():
        raise ShrinkError(f"{SIGNING} is not set and '{path}' is missing; name a key, or `shrink up` makes one.")
    return signing.signer(path, SIGNING)


def trust(here: Settings) -> Trust:
    """The public keys whose signatures are believed here. Raises ShrinkError."""
    if here.trusted_keys is not None:
        named = [Path(part) for part in here.trusted_keys.split(os.pathsep) if part]
        return Trust(keys=tuple(signing.public(path, TRUSTED) for path in named))
    if here.signing_key is not None:
        return Trust(keys=(signer(here).public,))
    path = keys.folder(here.home) / keys.PUBLIC
    if not path.exists():
        raise ShrinkError(f"{TRUSTED} is not set and '{path}' is missing; name keys, or `shrink up` makes one.")
    return Trust(keys=(signing.public(path, TRUSTED),))


def ready(here: Settings) -> Signer:
    """The key that signs, once it is among those that are trusted: else a run would refuse its own result."""
    found, trusted = signer(here), trust(here)
    if found.public not in trusted.keys:
        raise ShrinkError(
            f"{TRUSTED} does not hold the key {found.public.id[:12]} that {SIGNING} signs with; add its public half."
        )
    return found


def of_ledger(here: Settings) -> Keys:
    """What ledgers are read and written with; without a signer where only a public key is. Raises ShrinkError."""
    if here.signing_key is None and not (keys.folder(here.home) / keys.KEY).exists():
        return Keys(trust(here))
    return Keys(trust(here), ready(here))
