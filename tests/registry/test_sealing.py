"""Signed entries of a ledger: what somebody else appended, copied or edited counts for nothing."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from registry import ledger, promotion, sealing, signing, store
from registry.records import ShrinkError
from registry.sealing import Keys
from registry.signing import Trust
from registry.standing import standing
from tests.registry.test_ledger import BUCKET, keys_in, registered


@pytest.fixture(scope="module", autouse=True)
def bucket(s3: Any) -> str:
    store.ensure_bucket(s3, BUCKET)
    return BUCKET


def append(s3: Any, name: str, signer: signing.Signer | None = None, **content: Any) -> None:
    """What somebody with the bucket alone can do: two entries with a right chain."""
    entries = promotion.history(s3, BUCKET, name)
    said = {"model": name, "action": "promote", "target": "1", "former": None, "previous": None, "digest": "0" * 64}
    for event in ("intent", "done"):
        one = ledger.following(entries, **(said | {"who": "mallory", "why": "mine", "event": event} | content))
        entries.append(ledger.append(s3, BUCKET, one, signer))


@pytest.mark.parametrize("which", ["unsigned", "another key", "signature of another entry"])
def test_a_well_chained_entry_of_somebody_elses_refuses_the_ledger(
    client: Any, s3: Any, tmp_path: Path, which: str
) -> None:
    name, held = registered(client, 3), keys_in(tmp_path / "ours")
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    promotion.promote(*where, "2", "me", "good", keys=held)
    assert promotion.champion(s3, BUCKET, name, client, held.trust) == "2"
    if which == "signature of another entry":
        before = promotion.history(s3, BUCKET, name)[-1]
        body = {**before.model_dump(mode="json"), "seq": 3, "before": before.own, "event": "intent", "target": "1"}
        s3.put_object(Bucket=BUCKET, Key=f"ledger/{name}/000003.json", Body=json.dumps(body).encode())
    else:
        append(s3, name, keys_in(tmp_path / "theirs").signer if which == "another key" else None)
    assert promotion.champion(s3, BUCKET, name, client) == "1", "its chain is in order"
    for act in (
        lambda: promotion.champion(s3, BUCKET, name, trust=held.trust),
        lambda: promotion.digest_of(s3, BUCKET, name, "1", client, held.trust),
        lambda: promotion.reconcile(*where, held),
        lambda: promotion.promote(*where, "3", "me", "better", keys=held),
        lambda: promotion.rollback(*where, "me", "worse", held),
    ):
        with pytest.raises(ledger.CorruptLedger, match=rf"entry 3 of the ledger of {name} is not signed by a key"):
            act()
    for number in (3, 4):
        s3.delete_object(Bucket=BUCKET, Key=f"ledger/{name}/{number:06d}.json")
    assert promotion.promote(*where, "3", "me", "better", keys=held).former == "2"


def test_what_was_never_signed_is_history_and_names_nothing(client: Any, s3: Any, tmp_path: Path) -> None:
    name, held = registered(client, 3), keys_in(tmp_path / "ours")
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    promotion.promote(*where, "1", "me", "before there were signatures")
    promotion.reject(*where, "3", "me", "rude")
    now = standing(promotion.history(s3, BUCKET, name, client, held.trust))
    assert (now.champion, now.digests, now.rejected("3")) == (None, {}, True)
    assert promotion.promote(*where, "1", "me", "signed now", keys=held).former is None
    append(s3, registered(client, 1))
    assert promotion.promote(*where, "2", "me", "better", keys=held).previous == "1"
    assert promotion.rollback(*where, "me", "worse", held).target == "1"
    entries = promotion.history(s3, BUCKET, name, client, held.trust)
    assert [one.proved for one in entries] == [False] * 4 + [True] * 6 and len({one.key for one in entries}) == 2
    other = keys_in(tmp_path / "new")
    both = Keys(Trust(keys=(*held.trust.keys, *other.trust.keys)), other.signer)
    assert promotion.promote(*where, "2", "me", "after all", keys=both).former == "1"
    rotated = standing(promotion.history(s3, BUCKET, name, client, other.trust))
    assert (rotated.champion, rotated.previous) == ("2", None), "the old key is trusted no more"


def test_a_place_without_a_private_key_reads_and_cannot_write(client: Any, s3: Any, tmp_path: Path) -> None:
    name, held = registered(client, 2), keys_in(tmp_path / "ours")
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    promotion.promote(*where, "1", "me", "good", keys=held)
    reads = Keys(held.trust)
    assert promotion.reconcile(*where, reads) == [] and promotion.champion(s3, BUCKET, name, client, reads.trust) == "1"
    with pytest.raises(ShrinkError, match="SHRINK_SIGNING_KEY is not set"):
        promotion.promote(*where, "2", "me", "better", keys=reads)
    assert len(promotion.history(s3, BUCKET, name)) == 2


def test_a_signature_is_over_every_field_and_over_nothing_else(tmp_path: Path) -> None:
    held = keys_in(tmp_path)
    assert held.signer is not None
    said = {"target": "1", "why": "größer", "forced": False, "before": hashlib.sha256(b"").hexdigest()}
    entry = sealing.sealed(said, held.signer)
    assert sealing.holds(dict(reversed(entry.items())), held.trust)
    for field in entry:
        assert not sealing.holds({**entry, field: "2"}, held.trust), field
    assert not sealing.holds({**entry, "more": None}, held.trust) and not sealing.holds(said, held.trust)
