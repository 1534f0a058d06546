"""The deployer against a real registry, with tiny real ONNX models: swaps, refusals, bad requests, a busy swap."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from flows import deploy, doctor_ledgers, keys, named, promote
from flows.serve import api, bodies, deployed, lanes, opening, serving
from flows.servers import s3_config
from flows.settings import settings
from infra import addresses, services
from registry import ledger, promotion, runs, store, versions
from registry.records import ShrinkError, digest_directory
from tasks import runtime
from tests import signatures

WORDS = ["[UNK]", "bad", "fine", "good", "film"]
TEXTS = ["good film", "bad film", "fine"]


def make_model(folder: Path, strength: float, unknown: float = 0.0, heavy: int = 0) -> Path:
    """Summed word weights as an ONNX artifact; `unknown` weighs other words, `heavy` floats a token costs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    table = np.zeros((len(WORDS), 2), dtype=np.float32)
    table[1], table[3], table[0] = (strength, -strength), (-strength, strength), (-unknown, unknown)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["light"], keepdims=0),
        helper.make_node("Shape", ["input_ids"], ["size"]),
        helper.make_node("Concat", ["size", "heavy"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["light", "zero"], ["logits"]),
    ]
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1]), "heavy": np.array([max(1, heavy)])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx"
    )
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"labels": ["negative", "positive"], "max_length": 16}))
    return folder


def make_golden(folder: Path, model: Path, shift: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    logits = runtime.predict(model, TEXTS, batch=1) + np.float32(shift)
    (folder / "golden.json").write_text(json.dumps({"texts": TEXTS, "logits": logits.tolist()}))
    return folder


def put(
    client: Any,
    name: str,
    folder: Path,
    strength: float,
    shift: float = 0.0,
    evidence: bool = True,
    signer: Path | None = None,
    **kind: Any,
) -> str:
    model = make_model(folder / "model", strength, **kind)
    golden = make_golden(folder / "evidence", model, shift) if evidence else None
    return enrol(client, name, model, golden, signer)


def enrol(client: Any, name: str, model: Path, golden: Path | None, signer: Path | None = None) -> str:
    """Register a model's folder with its evidence, signed; returns the version."""
    run, home = client.create_run("0").info.run_id, settings().home
    signature, trust = signatures.sealed(name, model, golden, signer or home), signatures.trust(home)
    digest = digest_directory(model)
    return versions.register(client, name, model, golden, digest, {}, "a test", run, trust, signature)


def version_of(slot: lanes.Slot) -> str | None:
    return None if slot.serving is None else slot.serving.served.version


@pytest.fixture
def ready(tmp_path: Path, slots: Callable[..., lanes.Slot]) -> TestClient:
    model = make_model(tmp_path / "model", 1.0)
    golden = make_golden(tmp_path / "evidence", model) / "golden.json"
    return TestClient(api.application(slots("tiny", serving=opening.opened(model, golden, "1"))))


def test_the_alias_is_followed_and_a_rollback_is_too(
    client: Any, slots: Callable[..., lanes.Slot], tmp_path: Path
) -> None:
    slot = slots("followed")
    http = TestClient(api.application(slot))
    serving.reconcile(client, slot, tmp_path / "cache")
    assert http.get("/healthz").status_code == 503
    assert http.post("/predict", json={"texts": ["good"]}).status_code == 503
    first, second = put(client, "followed", tmp_path / "1", 1.0), put(client, "followed", tmp_path / "2", 3.0)
    scores = []
    for version in (first, second, first):
        client.set_registered_model_alias("followed", "live", version)
        serving.reconcile(client, slot, tmp_path / "cache")
        health = http.get("/healthz").json()
        assert (health["status"], health["version"], health["trouble"]) == ("serving", version, None)
        scores.append(http.post("/predict", json={"texts": ["good"]}).json()["predictions"][0]["score"])
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-6)), 1 / (1 + np.exp(-2))])


def test_a_version_that_does_not_verify_or_answer_as_it_did_is_refused_and_the_old_one_stays(
    client: Any, servers_home: Path, slots: Callable[..., lanes.Slot], tmp_path: Path
) -> None:
    name, cache = "guarded", tmp_path / "cache"
    good = put(client, name, tmp_path / "1", 1.0)
    wrong = put(client, name, tmp_path / "2", 2.0, shift=0.5)
    bare = put(client, name, tmp_path / "3", 3.0, evidence=False)
    strange = put(client, name, tmp_path / "4", 4.0, signer=tmp_path / "stranger")
    damaged, edited = put(client, name, tmp_path / "5", 5.0), put(client, name, tmp_path / "6", 6.0)
    kept = {one: client.get_model_version(name, one).source.removeprefix("models:/") for one in (damaged, edited)}
    for one, file in ((damaged, "model.sig"), (edited, "golden.json")):
        (stored,) = [path for path in (servers_home / "s3").rglob(file) if kept[one] in path.parts]
        stored.write_bytes(b"".ljust(stored.stat().st_size))
    slot = slots(name)
    client.set_registered_model_alias(name, "live", good)
    serving.reconcile(client, slot, cache)
    reasons = [(strange, "which is not trusted"), (damaged, "a damaged signature"), (edited, "does not hold the evid")]
    for version, why in ((wrong, "golden logits by 0.5"), (bare, "golden.json"), *reasons):
        client.set_registered_model_alias(name, "live", version)
        serving.reconcile(client, slot, cache)
        assert version_of(slot) == good
        assert slot.refused is not None and slot.refused.version == version and why in slot.refused.why
        refusal = slot.refused
        serving.reconcile(client, slot, cache)
        assert slot.refused is refusal, "a refused version is not fetched and tried at every poll"
    client.set_registered_model_alias(name, "live", good)
    serving.reconcile(client, slot, cache)
    assert slot.refused is None


def test_after_a_start_with_a_bad_champion_the_previous_one_is_served(
    client: Any, crown: Callable[..., None], slots: Callable[..., lanes.Slot], tmp_path: Path
) -> None:
    name, cache = "restarted", tmp_path / "cache"
    wrong = put(client, name, tmp_path / "2", 2.0, shift=0.5)
    crown(name, wrong)
    slot = slots(name, "champion")
    serving.reconcile(client, slot, cache)
    assert slot.serving is None and slot.refused is not None, "there is nothing to go back to yet"
    good, worse = put(client, name, tmp_path / "1", 1.0), put(client, name, tmp_path / "4", 4.0, shift=0.5)
    for version in (good, worse):
        crown(name, version)
    slot = slots(name, "champion")
    serving.reconcile(client, slot, cache)
    health = TestClient(api.application(slot)).get("/healthz").json()
    assert (health["status"], health["version"], health["refused"]["version"]) == ("serving", good, worse)
    told = deployed.Evidence.model_validate_json(client.get_model_version(name, worse).tags[deployed.TAG])
    assert (told.outcome, told.instead) == ("refused", good) and "golden logits by 0.5" in told.why
    assert slot.refused is not None
    slot.refused = slot.refused.model_copy(update={"until": 0.0})
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == good
    assert slot.refused.until > 0.0, "once its time is over the refused version was tried again"
    third = put(client, name, tmp_path / "3", 3.0)
    crown(name, third)
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == third and slot.refused is None
    client.set_registered_model_alias(name, "champion", wrong)
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == third and slot.refused is None, "the ledger names the champion, not MLflow's alias"


def test_a_port_that_is_taken_is_one_sentence() -> None:
    holder = deploy.listening("127.0.0.1", 0)
    assert holder.proto == socket.IPPROTO_TCP, "else asyncio leaves Nagle on, and an answer takes 40 ms more"
    try:
        with pytest.raises(ShrinkError, match=r"port = \d+ cannot be listened on \(Address already in use\)"):
            deploy.listening("127.0.0.1", holder.getsockname()[1])
    finally:
        holder.close()
    with pytest.raises(ShrinkError, match="port = 99999"):
        deploy.listening("127.0.0.1", 99999)


def test_the_code_on_the_card_runs_and_agrees_with_ours(
    client: Any, slots: Callable[..., lanes.Slot], tmp_path: Path
) -> None:
    from registry.card_code import code

    client.set_registered_model_alias("documented", "champion", put(client, "documented", tmp_path, 1.0))
    for text, label in (("good film", "positive"), ("bad film", "negative")):
        seen: dict[str, Any] = {}
        exec(code("documented", "classify").replace("a text", text), seen)
        ours = runtime.predict(tmp_path / "model", [text])[0]
        assert seen["label"] == label and np.allclose(seen["logits"], ours)


def test_changed_bytes_are_never_loaded(
    client: Any, servers_home: Path, slots: Callable[..., lanes.Slot], tmp_path: Path
) -> None:
    name, cache = "tampered", tmp_path / "cache"
    version = put(client, name, tmp_path / "1", 1.0)
    client.set_registered_model_alias(name, "live", version)
    source = client.get_model_version(name, version).source.removeprefix("models:/")
    (stored,) = [path for path in (servers_home / "s3").rglob("model.onnx") if source in path.parts]
    original = stored.read_bytes()
    changed = make_model(tmp_path / "other", 9.0) / "model.onnx"
    stored.write_bytes(changed.read_bytes())
    slot = slots(name)
    serving.reconcile(client, slot, cache)
    assert slot.serving is None
    assert slot.refused is not None and "digest" in slot.refused.why
    stored.write_bytes(original)
    slot = slots(name)
    serving.reconcile(client, slot, cache)
    assert slot.serving is not None
    kept = cache / f"{name}-{version}" / "model" / "model.onnx"
    kept.write_bytes(changed.read_bytes())
    slot = slots(name)
    serving.reconcile(client, slot, cache)
    assert slot.serving is not None, "a damaged copy of ours is fetched again"
    assert kept.read_bytes() == original


def test_artifacts_and_tag_that_were_changed_together_do_not_outvote_the_ledger(
    client: Any, servers: services.Services, servers_home: Path, slots: Callable[..., lanes.Slot], tmp_path: Path
) -> None:
    name, s3 = "outvoted", store.connect(s3_config(servers))
    where = (client, s3, servers.bucket, tmp_path / "lock", name)
    held = keys.of_ledger(settings())
    first, second = (put(client, name, tmp_path / word, power) for word, power in (("1", 1.0), ("2", 2.0)))
    for version in (first, second):
        client.set_model_version_tag(name, version, versions.VERDICT_TAG, versions.PASSED)
        promotion.promote(*where, version, "me", "a test", keys=held)
    judged = promotion.digest_of(s3, servers.bucket, name, first)
    source = client.get_model_version(name, first).source.removeprefix("models:/")
    (stored,) = [path for path in (servers_home / "s3").rglob("config.json") if source in path.parts]
    swapped = stored.read_text().replace('"negative", "positive"', '"positive", "negative"')
    assert swapped != stored.read_text()
    for config in (stored, tmp_path / "1" / "model" / "config.json"):
        config.write_text(swapped)
    forged = digest_directory(tmp_path / "1" / "model")
    client.set_model_version_tag(name, first, versions.DIGEST_TAG, forged)
    with pytest.raises(versions.CorruptVersion, match=r"what was signed: model/config\.json was changed"):
        versions.fetch(client, name, first, tmp_path / "by tag", signatures.trust(servers_home))
    with pytest.raises(versions.CorruptVersion, match="another digest"):
        promotion.promote(*where, first, "me", "again", keys=held)
    promotion.rollback(*where, "me", "back", held)
    assert promotion.digest_of(s3, servers.bucket, name, first) == judged, "the rollback did not note the forged tag"
    slot = slots(name, "champion")
    serving.reconcile(client, slot, tmp_path / "cache")
    assert slot.serving is None and slot.refused is not None and "another digest" in slot.refused.why
    with pytest.raises(versions.CorruptVersion, match="another digest"):
        named.predictions(name, ["good film"], tmp_path)


def test_a_registry_that_is_away_does_not_stop_serving(slots: Callable[..., lanes.Slot], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        away = runs.connect("http://127.0.0.1:9")  # both addresses, whatever the environment says
        model = make_model(tmp_path / "served", 1.0)
        golden = make_golden(tmp_path / "known", model) / "golden.json"
        slot = slots("tiny", serving=opening.opened(model, golden, "1"))
        serving.reconcile(away, slot, tmp_path / "cache")
    assert version_of(slot) == "1"
    assert slot.trouble is not None
    health = TestClient(api.application(slot)).get("/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "serving")


def test_predictions_have_labels_and_scores_in_the_order_asked(ready: TestClient) -> None:
    texts = ["good good film film film", "bad", "fine", "good"]
    found = ready.post("/predict", json={"texts": texts}).json()
    assert (found["model"], found["version"]) == ("tiny", "1")
    assert [one["label"] for one in found["predictions"]] == ["positive", "negative", "negative", "positive"]
    for one in found["predictions"]:
        assert one["score"] == max(one["scores"].values())
        assert sum(one["scores"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", 422, "body"),
        (b"not json", 422, "body"),
        (b"[]", 422, "body"),
        (b"{}", 422, "texts"),
        (b'{"texts": "good"}', 422, "texts"),
        (b'{"texts": []}', 422, "texts"),
        (b'{"texts": ["good", 3]}', 422, "texts.1"),
        (b'{"texts": ["good", ""]}', 422, "texts.1"),
        (b'{"texts": ["good", " \\u200b\\n"]}', 422, "texts.1"),
        (b'{"pairs": [["good", "\\t"]]}', 422, "pairs.0.1"),
        (b'{"texts": ["good"], "alias": "x"}', 422, "alias"),
        (b'{"texts": ["\\ud800"]}', 422, "body"),
        (b'{"texts": ["\xff"]}', 422, "body"),
        (json.dumps({"texts": ["a" * (bodies.MAX_CHARACTERS + 1)]}).encode(), 422, "texts.0"),
        (json.dumps({"texts": ["a"] * (bodies.MAX_TEXTS + 1)}).encode(), 422, "texts"),
        (b" " * (bodies.MAX_BYTES + 1), 413, "body"),
    ],
)
def test_a_bad_body_is_refused_by_field(ready: TestClient, body: bytes, code: int, field: str) -> None:
    refused = ready.post("/predict", content=body)
    assert refused.status_code == code, refused.text
    detail = refused.json()["detail"]
    assert field in (detail if isinstance(detail, str) else [one["field"] for one in detail])


@pytest.mark.parametrize(
    ("task", "pairs", "path", "field"),
    [
        ("classify", False, "/predict", "texts"),
        ("classify", True, "/predict", "pairs"),
        ("embed", False, "/embed", "texts"),
    ],
)
def test_the_command_that_is_suggested_asks_what_is_served(
    tmp_path: Path, task: Any, pairs: bool, path: str, field: str
) -> None:
    about = {"pairs": pairs}
    serving_now = lanes.Served(
        version="1", digest="", directory=tmp_path, task=task, config=about, runtime="onnxruntime", limit_mb=1.0
    )
    command = api.example(serving_now, "http://127.0.0.1:80")
    assert command.startswith(f"curl -s http://127.0.0.1:80{path} -d '")
    body = command.split("-d '")[1].removesuffix("'")
    assert (
        getattr(bodies.read(body.encode()), field) is not None
        and len(bodies.asked(serving_now, bodies.read(body.encode()))) == 1
    )


@pytest.fixture
def process(servers: services.Services, servers_home: Path, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """`serve` as a program of its own, following the alias `live` of the model `busy`."""
    holder = addresses.bind(0)
    assert holder is not None
    port = holder.getsockname()[1]
    holder.close()
    code = (
        "from pathlib import Path; from flows.deploy import serve; "
        f"serve('busy', 'live', port={port}, poll_seconds=0.2, cache=Path({str(tmp_path / 'cache')!r}))"
    )
    env = {**os.environ, **services.environment(servers, servers_home)}
    with (tmp_path / "serve.log").open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=env, stdout=output, stderr=output
        )
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.wait()


def until_version(address: str, version: str, seconds: float) -> int:
    """Ask without pause until the version answers; every answer must be a whole one of a single version."""
    asked, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            found = httpx.post(address + "/predict", json={"texts": ["good", "bad"]}, timeout=20, trust_env=False)
        except httpx.ConnectError:
            assert asked == 0, "it listened and then did not"
            time.sleep(0.1)
            continue
        if found.status_code == 503 and asked == 0:
            continue
        assert found.status_code == 200, found.text
        asked += 1
        if found.json()["version"] == version:
            return asked
    raise AssertionError(f"version {version} was not served within {seconds:g} s")


def test_no_request_fails_while_the_version_changes(client: Any, process: tuple[Any, str], tmp_path: Path) -> None:
    started, address = process
    first, second = put(client, "busy", tmp_path / "1", 1.0), put(client, "busy", tmp_path / "2", 3.0)
    client.set_registered_model_alias("busy", "live", first)
    until_version(address, first, 120)
    client.set_registered_model_alias("busy", "live", second)
    assert until_version(address, second, 60) > 1, "the old version answered meanwhile"
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) in (0, -signal.SIGTERM)
    assert "serving version" in (tmp_path / "serve.log").read_text()


def test_a_promotion_that_nobody_signed_is_followed_by_nobody(
    client: Any,
    servers: services.Services,
    servers_home: Path,
    slots: Callable[..., lanes.Slot],
    crown: Callable[..., None],
    tmp_path: Path,
) -> None:
    name, s3 = "appended-to", store.connect(s3_config(servers))
    good, other = (put(client, name, tmp_path / word, power) for word, power in (("1", 1.0), ("2", 2.0)))
    client.set_registered_model_alias(name, "champion", other)
    with pytest.raises(ShrinkError, match=f"at version {other} in MLflow and at none in its signed ledger"):
        named.fetched(f"{name}@champion", servers_home)
    assert [one.alias for one in promote.reconcile(name)[name]] == ["champion"]
    crown(name, good)
    slot = slots(name, "champion")
    serving.reconcile(client, slot, tmp_path / "cache")
    assert version_of(slot) == good
    digest = client.get_model_version(name, other).tags[versions.DIGEST_TAG]
    said = {"model": name, "action": "promote", "target": other, "former": good, "previous": good, "digest": digest}
    entries = promotion.history(s3, servers.bucket, name)
    for event in ("intent", "done"):
        one = ledger.following(entries, **said, event=event, who="mallory", why="mine")
        entries.append(ledger.append(s3, servers.bucket, one))
    assert promotion.champion(s3, servers.bucket, name) == other, "its chain is in order"
    serving.reconcile(client, slot, tmp_path / "cache")
    assert version_of(slot) == good and "is not signed by a key that is trusted" in str(slot.trouble)
    fresh = slots(name, "champion")
    serving.reconcile(client, fresh, tmp_path / "another")
    assert fresh.serving is None and "is not signed by a key that is trusted" in str(fresh.trouble)
    for act in (
        lambda: named.fetched(f"{name}@champion", servers_home),
        lambda: named.fetched(f"{name}@{other}", servers_home),
        lambda: promote.reconcile(name),
        lambda: promote.reconcile(None),
    ):
        with pytest.raises(ledger.CorruptLedger, match=f"entry 3 of the ledger of {name} is not signed"):
            act()
    (found,) = [one for one in doctor_ledgers.ledgers(servers_home) if name in one.what]
    assert found.state == "broken" and "is not signed by a key that is trusted" in found.what
    for number in (3, 4):
        s3.delete_object(Bucket=servers.bucket, Key=f"ledger/{name}/{number:06d}.json")
    assert promote.reconcile(name) == {name: []}
