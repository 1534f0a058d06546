"""The ledger under people, kills, racers and damage, against a real MLflow, the embedded S3 and, if installed, Ceph."""

import itertools
import json
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import keys as made
from infra.addresses import Services
from registry import ledger, movements, promotion, runs, signing, standing, store, versions
from registry.conditional import conditional
from registry.promotion import Judged
from registry.records import ShrinkError
from registry.sealing import Keys
from tests import ceph
from tests.registry.actors import NOTHING, WROTE, Act

BUCKET = "ledger-tests"
Together = Callable[[list[Act]], list[int]]


@pytest.fixture(scope="module", autouse=True)
def bucket(s3: Any) -> str:
    store.ensure_bucket(s3, BUCKET)
    return BUCKET


@pytest.fixture(scope="module")
def embedded(servers: Services) -> store.S3Config:
    keys = {"access_key": servers.access_key, "secret_key": servers.secret_key}
    return store.S3Config(endpoint=servers.s3_endpoint, bucket=BUCKET, region=servers.region, **keys)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[store.S3Config]:
    """Ceph's gateway, which honours conditional writes."""
    if missing := ceph.missing():
        pytest.skip(f"Ceph is not installed ({missing[0]}): apt-get install ceph-mon ceph-osd radosgw")
    with ceph.running(tmp_path_factory.mktemp("ceph")) as config:
        store.ensure_bucket(store.connect(config), config.bucket)
        yield config


def keys_in(home: Path) -> Keys:
    """A key of its own that signs and is trusted."""
    home.mkdir(parents=True, exist_ok=True)
    made.ensure(home)
    key = signing.signer(made.folder(home) / made.KEY, "key")
    return Keys(signing.Trust(keys=(key.public,)), key)


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    """Performs acts at once, each in a process of its own; how they ended."""
    root = Path(__file__).parents[2]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "tests.registry.actors"], cwd=root, **pipes) as process:
        asks, answers = process.stdin, process.stdout
        assert asks is not None and answers is not None

        def performed(acts: list[Act]) -> list[int]:
            asks.write(json.dumps([one.model_dump(mode="json") for one in acts]) + "\n")
            asks.flush()
            ended: list[int] = json.loads(answers.readline())
            return ended

        yield performed
        asks.close()


def registered(client: Any, number: int, verdict: str = versions.PASSED) -> str:
    """A model with so many versions, all of one stored model: the ledger looks at their tags alone."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    add(client, name, number, verdict)
    return name


def add(client: Any, name: str, number: int, verdict: str = versions.PASSED) -> None:
    run = client.get_run(runs.open_run(client, "tests", "run", {runs.RUN_TAG: uuid.uuid4().hex})).info
    stored = client.create_logged_model(run.experiment_id, name=name, source_run_id=run.run_id)
    client.finalize_logged_model(stored.model_id, "READY")
    for _ in range(number):
        tags = {versions.DIGEST_TAG: secrets.token_hex(32), versions.VERDICT_TAG: verdict}
        source = f"models:/{stored.model_id}"
        client.create_model_version(name, source, tags=tags, model_id=stored.model_id, await_creation_for=None)


def stand(client: Any, s3: Any, name: str, line: tuple[str, ...]) -> None:
    """The ledger and the aliases of a model that had these champions."""
    entries: list[promotion.Entry] = []
    for place, version in enumerate(line):
        digest = promotion.by_tags(client, name, version).digest
        said: dict[str, Any] = {
            "model": name,
            "action": "promote",
            "target": version,
            "digest": digest,
            "who": "me",
            "why": "good",
        }
        said |= {"former": line[place - 1] if place else None, "previous": line[place - 1] if place else None}
        for event in ("intent", "done"):
            same = {"id": entries[-1].id} if event == "done" else {}
            entries.append(ledger.append(s3, BUCKET, ledger.following(entries, **said, **same, event=event)))
    ledger.remember(client, entries)
    for alias, version in zip(("champion", "previous"), reversed(line), strict=False):
        client.set_registered_model_alias(name, alias, version)


def aliases(client: Any, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def left(line: list[str], version: str) -> list[str]:
    """A line of champions without one, and none beside itself."""
    return [one for one, _ in itertools.groupby(one for one in line if one != version)]


def whole(client: Any, s3: Any, bucket: str, name: str) -> list[promotion.Entry]:
    """The ledger's intents, once it is one line: each done before the next, each from the champion that was."""
    entries = promotion.history(s3, bucket, name, client)
    intents = entries[::2]
    assert [one.event for one in entries] == ["intent", "done"] * len(intents)
    assert [one.id for one in intents] == [one.id for one in entries[1::2]]
    assert len({one.id for one in intents}) == len(intents)
    line: list[str] = []
    for one in intents:
        assert one.former == (line[-1] if line else None)
        if one.action == "promote":
            line.append(one.target)
        elif one.action == "rollback":
            line.pop()
            assert line[-1] == one.target
        elif one.action == "reject":
            line = left(line, one.target)
        assert one.previous == (line[-2] if len(line) > 1 else None)
    seen = aliases(client, name)
    assert (seen.get("champion"), seen.get("previous")) == (line[-1] if line else None, line[-2] if line[1:] else None)
    return intents


def test_the_challenger_is_what_could_be_promoted_next(client: Any, s3: Any, tmp_path: Path) -> None:
    name = registered(client, 4)
    add(client, name, 1, versions.REJECTED)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    assert promotion.reconcile(*where) == [promotion.Moved("challenger", None, "4")]
    promotion.reject(*where, "4", "me", "rude")
    assert aliases(client, name) == {"challenger": "3"}
    promotion.promote(*where, "3", "me", "good")
    assert aliases(client, name) == {"champion": "3"}, "older ones do not challenge"
    promotion.approve(*where, "4", "me", "not so rude")
    assert aliases(client, name) == {"champion": "3", "challenger": "4"}
    promotion.promote(*where, "4", "me", "better")
    promotion.rollback(*where, "me", "rude after all")
    assert aliases(client, name) == {"champion": "3"}, "what was rolled back from does not challenge"
    assert [one.action for one in whole(client, s3, BUCKET, name)] == [
        "reject",
        "promote",
        "approve",
        "promote",
        "rollback",
    ]


def test_aliases_that_a_bare_client_moved_added_or_removed_are_repaired(client: Any, s3: Any, tmp_path: Path) -> None:
    name = registered(client, 3)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    for version in "12":
        promotion.promote(*where, version, "me", "good")
    client.set_registered_model_alias(name, "champion", "3")
    client.delete_registered_model_alias(name, "previous")
    client.set_registered_model_alias(name, "live", "1")
    moved = promotion.reconcile(*where)
    assert moved == [promotion.Moved("champion", "3", "2"), promotion.Moved("previous", None, "1")]
    assert promotion.reconcile(*where) == []
    assert aliases(client, name) == {"champion": "2", "previous": "1", "challenger": "3", "live": "1"}
    client.set_registered_model_alias(name, "champion", "3")
    assert promotion.rollback(*where, "me", "back").target == "1", "the ledger says what champion is, not the alias"
    whole(client, s3, BUCKET, name)


def test_nothing_is_promoted_against_a_persons_word(client: Any, s3: Any, tmp_path: Path) -> None:
    name = registered(client, 2)
    add(client, name, 1, versions.REJECTED)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    tagged = {one: promotion.by_tags(client, name, one) for one in "123"}
    asks = {one: seen.model_copy(update={"asks": True}) for one, seen in tagged.items()}

    def refused(version: str, message: str, seen: Judged | None = None, force: bool = False) -> None:
        with pytest.raises(ShrinkError, match=message):
            promotion.promote(*where, version, "me", "try", seen, force)

    refused("3", "did not pass its gate")
    refused("1", "waits for a person's approval", asks["1"], force=True)
    promotion.approve(*where, "1", "anna", "looks right", hours=1e-9)
    refused("1", r"approval of version 1 of .* ended at", asks["1"])
    promotion.approve(*where, "1", "anna", "looks right", tagged["2"])
    refused("1", "is for another digest", asks["1"])
    promotion.reject(*where, "1", "anna", "rude words")
    refused("1", r"was rejected by anna \(rude words\)")
    assert promotion.champion(s3, BUCKET, name) is None
    forced = promotion.promote(*where, "1", "me", "no other way", force=True)
    assert forced.forced and promotion.promote(*where, "1", "me", "again", force=True) == forced
    promotion.approve(*where, "2", "anna", "looks right")
    assert not promotion.promote(*where, "2", "me", "better", asks["2"], force=True).forced
    with pytest.raises(ShrinkError, match="is the champion"):
        promotion.reject(*where, "2", "anna", "rude")
    promotion.reject(*where, "1", "anna", "rude")
    with pytest.raises(ShrinkError, match="no earlier champion"):
        promotion.rollback(*where, "me", "back to what was rejected")
    assert promotion.reject(*where, "2", "anna", "rude, too").former == "2", "the only champion is withdrawn"
    assert promotion.champion(s3, BUCKET, name, client) is None and aliases(client, name) == {}
    whole(client, s3, BUCKET, name)


@pytest.mark.parametrize("damage", ["edited", "removed", "emptied"])
def test_a_ledger_that_was_tampered_with_is_refused_and_left_alone(
    client: Any, s3: Any, tmp_path: Path, damage: str
) -> None:
    name = registered(client, 2)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    for version in "12":
        promotion.promote(*where, version, "me", "good")
    for number in range(1, 5):
        key = f"ledger/{name}/{number:06d}.json"
        body = store.read_object(s3, BUCKET, key)
        assert body is not None
        if damage == "removed":
            s3.delete_object(Bucket=BUCKET, Key=key)
        else:
            changed = body.replace(b'"why":"good"', b'"why":"best"') if damage == "edited" else b""
            s3.put_object(Bucket=BUCKET, Key=key, Body=changed)
        for act in (lambda: promotion.rollback(*where, "me", "back"), lambda: promotion.reconcile(*where)):
            with pytest.raises(ledger.CorruptLedger, match=rf"entry {number} .*: restore the object {key}"):
                act()
        assert aliases(client, name) == {"champion": "2", "previous": "1"}
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    last = client.get_registered_model(name).tags[ledger.HEAD_TAG]
    for tag in ("9" * 4600, "4", "0:", f"9999999{last[1:]}", "٤" + last[1:]):
        client.set_registered_model_tag(name, ledger.HEAD_TAG, tag)
        with pytest.raises(ledger.CorruptLedger, match="which no promotion wrote: remove or restore it"):
            promotion.reconcile(*where)
    client.set_registered_model_tag(name, ledger.HEAD_TAG, last)
    assert len(whole(client, s3, BUCKET, name)) == 2


def test_a_ledger_without_a_chain_goes_on_with_one(client: Any, s3: Any, tmp_path: Path) -> None:
    name = registered(client, 2)
    old = {"seq": 1, "event": "intent", "action": "promote", "model": name, "target": "1", "former": None}
    old |= {"previous": None, "digest": promotion.by_tags(client, name, "1").digest, "who": "me", "why": "", "when": ""}
    for seq, event in ((1, "intent"), (2, "done")):
        body = json.dumps(old | {"seq": seq, "event": event}).encode()
        s3.put_object(Bucket=BUCKET, Key=f"ledger/{name}/{seq:06d}.json", Body=body)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    assert promotion.promote(*where, "2", "me", "better").former == "1"
    assert [one.before is None for one in promotion.history(s3, BUCKET, name, client)] == [True, True, False, False]


@pytest.mark.parametrize("what", ["promote", "rollback", "approve", "reject"])
def test_killed_at_any_call_an_action_is_finished_once(
    client: Any, s3: Any, embedded: store.S3Config, together: Together, servers: Services, tmp_path: Path, what: str
) -> None:
    version, acts = None if what == "rollback" else "3", []
    for call in range(1, 41):  # each on a model of its own: a ledger that grows would move the calls
        name = registered(client, 3)
        stand(client, s3, name, ("1", "2"))
        given: dict[str, Any] = {"name": name, "lock": str(tmp_path / name), "mlflow": servers.mlflow_uri}
        acts.append(Act(what=what, version=version, why="once", s3=embedded, dies=call, **given))
    ended = together(acts)
    killed = ended.count(-signal.SIGKILL)
    assert ended == [-signal.SIGKILL] * killed + [WROTE] * (40 - killed) and 20 < killed < 40
    again = []
    for act in acts:
        seen, entries = aliases(client, act.name), promotion.history(s3, BUCKET, act.name)
        assert seen["champion"] in {"2", entries[-1].target}, "an alias moved without an entry"
        if len(entries) % 2 and what != "approve":
            continue  # the intent stands open: typed again below, without anything between
        promotion.reconcile(client, s3, BUCKET, Path(act.lock), act.name)
        written = len(whole(client, s3, BUCKET, act.name)) - 2
        assert written in {0, 1}
        if not written:
            again.append(act)
    again += [act for act in acts if len(promotion.history(s3, BUCKET, act.name)) % 2]
    assert len(again) > 5
    assert set(together([act.model_copy(update={"dies": None}) for act in again])) == {WROTE}
    for act in acts:
        assert [one.why for one in whole(client, s3, BUCKET, act.name)] == ["good", "good", "once"]


def test_a_rollback_typed_again_after_a_kill_goes_back_once(
    client: Any, s3: Any, embedded: store.S3Config, together: Together, servers: Services, tmp_path: Path
) -> None:
    name = registered(client, 3)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    given: dict[str, Any] = {"name": name, "lock": str(tmp_path / "lock"), "mlflow": servers.mlflow_uri, "s3": embedded}
    for version in "123":
        promotion.promote(*where, version, "me", "good")
    entries, call = 6, 6
    while entries == 6:  # up to the first call at which the intent stands and `done` does not
        call += 1
        assert together([Act(what="rollback", why="worse", dies=call, **given)]) == [-signal.SIGKILL]
        entries = len(promotion.history(s3, BUCKET, name))
    assert entries == 7
    assert together([Act(what="rollback", why="worse", **given)]) == [WROTE]
    assert aliases(client, name)["champion"] == "2" and len(whole(client, s3, BUCKET, name)) == 4


@pytest.mark.parametrize("which", ["embedded", "strict"])
def test_a_hundred_racers_leave_one_line_and_one_champion(
    client: Any, servers: Services, together: Together, tmp_path: Path, request: pytest.FixtureRequest, which: str
) -> None:
    config: store.S3Config = request.getfixturevalue(which)
    s3, name = store.connect(config), registered(client, 5)
    assert conditional(s3, config.bucket) == (which == "strict")
    held = keys_in(tmp_path / "keys")
    given: dict[str, Any] = {"name": name, "mlflow": servers.mlflow_uri, "s3": config, "signs": held.signer}
    acts = []
    for number in range(100):
        lock = str(tmp_path / ("lock" if which == "embedded" else f"lock of host {number}"))
        what, version = ("rollback", None) if number % 4 == 3 else ("promote", str(number % 5 + 1))
        acts.append(Act(what=what, version=version, why=f"racer {number}", lock=lock, **given))
    ended = together(acts)
    assert set(ended) <= {WROTE, NOTHING}
    intents = whole(client, s3, config.bucket, name)
    assert sorted(one.why for one in intents) == sorted(
        act.why for act, status in zip(acts, ended, strict=True) if status == WROTE
    )
    assert len(intents) > 20 and {"promote", "rollback"} == {one.action for one in intents}
    assert promotion.reconcile(client, s3, config.bucket, tmp_path / "lock", name, held) == []
    assert all(one.proved for one in promotion.history(s3, config.bucket, name, client, held.trust))


def test_of_many_watchers_on_many_hosts_one_starts_a_movement(
    strict: store.S3Config, together: Together, servers: Services
) -> None:
    given: dict[str, Any] = {"what": "watch", "name": "moved", "lock": "", "mlflow": servers.mlflow_uri, "s3": strict}
    ended = together([Act(why=f"watcher {number}", **given) for number in range(12)])
    assert sorted(ended) == [WROTE] + [NOTHING] * 11
    (entry,) = movements.history(store.connect(strict), strict.bucket, "moved", "d" * 64)
    assert entry.who == f"watcher {ended.index(WROTE)}"


def test_an_intent_that_another_host_left_open_is_finished_for_it(
    client: Any, strict: store.S3Config, together: Together, servers: Services, tmp_path: Path
) -> None:
    s3, name = store.connect(strict), registered(client, 2)
    given: dict[str, Any] = {"name": name, "lock": str(tmp_path / "other"), "mlflow": servers.mlflow_uri, "s3": strict}
    call = 0
    while not promotion.history(s3, strict.bucket, name):
        call += 1
        assert together([Act(what="promote", version="1", why="good", dies=call, **given)]) == [-signal.SIGKILL]
    promotion.promote(client, s3, strict.bucket, tmp_path / "lock", name, "2", "me", "better")
    assert [one.target for one in whole(client, s3, strict.bucket, name)] == ["1", "2"]


def test_a_version_that_mlflow_lost_stops_nothing(client: Any, s3: Any, tmp_path: Path) -> None:
    name = registered(client, 3)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    for version in "12":
        promotion.promote(*where, version, "me", "good")
    client.delete_model_version(name, "1")
    with pytest.raises(ShrinkError, match="has no version '1'"):
        promotion.rollback(*where, "me", "worse")
    promotion.reject(*where, "3", "me", "rude")
    assert (aliases(client, name).get("champion"), aliases(client, name).get("previous")) == ("2", None)


def test_a_rollback_goes_to_another_version_and_bytes_stay_rejected(client: Any, s3: Any, tmp_path: Path) -> None:
    name = registered(client, 3)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    for version in "121":
        promotion.promote(*where, version, "me", "good")
    promotion.reject(*where, "2", "me", "worse")
    with pytest.raises(ShrinkError, match="no earlier champion"):
        promotion.rollback(*where, "me", "it would go to itself")
    entry = promotion.reject(*where, "3", "me", "rude")
    again = Judged(digest=entry.digest, passed=True)
    now = standing.standing(promotion.history(s3, BUCKET, name))
    assert "has the bytes of version 3, rejected by me (rude)" in str(standing.barred(now, name, "4", again))
    assert standing.barred(now, name, "4", again, force=True) is None
