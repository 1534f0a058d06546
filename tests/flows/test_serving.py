"""New versions beside old ones, with live requests: real registry, real processes, tiny real models."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

from flows import keys
from flows.serve import answers, api, bodies, deployed, doorway, guarding, lanes, opening, serving
from flows.serve.rollout import Options
from flows.servers import s3_config
from flows.settings import settings
from infra import services
from registry import ledger, promotion, store
from registry.records import ShrinkError
from tests.flows.test_deploy import make_golden, make_model, put, version_of

Slots = Callable[..., lanes.Slot]
TRIED = Options(shadow=20, canary=0.5)
LIVE = ["xylograph bad film", "good marked-live-text fine", "bad"]  # other words than the golden texts have


def evidence(client: Any, name: str, version: str) -> deployed.Evidence:
    return deployed.Evidence.model_validate_json(client.get_model_version(name, version).tags[deployed.TAG])


def offered(
    client: Any, slots: Slots, tmp_path: Path, name: str, options: Options = TRIED, **kind: Any
) -> tuple[lanes.Slot, Path, tuple[str, str]]:
    """A slot that serves a first version, with a second one of some kind just loaded."""
    first = put(client, name, tmp_path / "1", 1.0)
    second = put(client, name, tmp_path / "2", 3.0, **kind)
    slot, cache = slots(name, options=options), tmp_path / "cache"
    for version in (first, second):
        client.set_registered_model_alias(name, "live", version)
        serving.reconcile(client, slot, cache)
    assert version_of(slot) == first and slot.candidate is not None
    return slot, cache, (first, second)


def drive(slot: lanes.Slot, cache: Path, requests: int, texts: list[str]) -> list[str]:
    """Ask until there are so many answers or the trial is over; each must be a right one. Returns who answered."""
    answered = []
    with TestClient(api.application(slot)) as http:
        for _ in range(requests):
            found = http.post("/predict", json={"texts": texts})
            assert found.status_code == 200, found.text
            assert len(found.json()["predictions"]) == len(texts)
            answered.append(found.json()["version"])
            time.sleep(0.01)  # the copy may still be on its way
            guarding.guard(slot, cache)
            if slot.phase is None:
                break
    return answered


def test_a_good_version_goes_through_shadow_and_canary_and_is_told_of(
    client: Any, slots: Slots, tmp_path: Path
) -> None:
    slot, cache, (first, second) = offered(client, slots, tmp_path, "goes-on")
    shadowed = drive(slot, cache, 1, LIVE)
    assert shadowed == [first] and slot.phase == "shadow" and slot.candidate is not None
    answered = drive(slot, cache, 300, LIVE)
    assert slot.phase is None and version_of(slot) == second and slot.refused is None
    until = answered.index(second)
    assert until >= 15, "the first ones saw copies alone"
    canary = answered[until : until + 30]
    assert 10 <= canary.count(first) <= 20, "then each answered its share"
    assert answered[-15:] == [second] * 15
    serving.reconcile(client, slot, cache)
    told = evidence(client, "goes-on", second)
    assert (told.outcome, told.phase) == ("serving", "watch") and told.seen is not None
    assert told.seen.candidate.requests >= 20 and told.seen.candidate.errors == 0
    guarding.guard(slot, cache)
    assert not slot.leaving, "the old process ended when it had answered"


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ({"unknown": 9.0}, TRIED, "agrees with the version in place in"),
        ({"unknown": 3e38}, TRIED, "could not answer 3 of"),
        ({"unknown": 3e38}, Options(shadow=0, canary=0.5), "could not answer 3 of"),
        ({"heavy": 600_000}, TRIED.model_copy(update={"memory_mb": 4000.0}), "requests took it longer than"),
        ({"heavy": 12_000_000}, TRIED.model_copy(update={"memory_mb": 400.0}), "allowed are 400 (--memory-mb)"),
    ],
    ids=["differs", "no-number", "no-number-in-canary", "slow", "memory"],
)
def test_a_version_right_on_golden_texts_and_wrong_on_live_ones_is_taken_back(
    kind: dict[str, Any], options: Options, why: str, client: Any, slots: Slots, tmp_path: Path,
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    name = f"taken-back-{request.node.callspec.id}"
    slot, cache, (first, second) = offered(client, slots, tmp_path, name, options, **kind)
    texts = [f"{LIVE[0]} {'fine ' * 12}", LIVE[1]]
    answered = drive(slot, cache, 400, texts)
    assert slot.phase is None and version_of(slot) == first and set(answered) == {first}
    assert slot.refused is not None and slot.refused.version == second and why in slot.refused.why
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == first, "it is not tried again while the alias stays there"
    told = evidence(client, name, second)
    assert (told.outcome, told.instead, told.why) == ("rolled back", first, slot.refused.why)
    assert told.seen is not None and told.seen.former.requests > 0
    told_of = json.dumps(dict(client.get_model_version(name, second).tags)) + caplog.text
    told_of += "".join(path.read_text() for path in cache.glob("*.json"))
    assert "xylograph" not in told_of and "marked-live-text" not in told_of
    health = TestClient(api.application(slot)).get("/healthz").json()
    assert (health["version"], health["refused"]["why"]) == (first, slot.refused.why)
    assert health["refused"]["phase"] == told.phase and health["refused"]["since"][:2] == "20"


def test_a_restart_comes_up_as_it_was_and_tries_a_refused_version_only_with_other_options(
    client: Any, slots: Slots, tmp_path: Path
) -> None:
    name = "comes-up"
    slot, cache, (first, second) = offered(client, slots, tmp_path, name, unknown=9.0)
    drive(slot, cache, 3, LIVE)
    again = slots(name, options=TRIED)  # the other one was killed in the middle of its trial
    serving.reconcile(client, again, cache)
    assert version_of(again) == first and again.candidate is not None and again.phase == "shadow"
    drive(again, cache, 400, ["xylograph bad"])
    assert version_of(again) == first and again.refused is not None
    third = slots(name, options=TRIED)
    serving.reconcile(client, third, cache)
    assert version_of(third) == first and third.candidate is None
    assert third.refused is not None and third.refused.why == again.refused.why
    other = slots(name, options=Options(shadow=0, canary=0))
    serving.reconcile(client, other, cache)
    assert version_of(other) == second and other.former is not None, "with other options it is worth another try"


def test_of_what_was_downloaded_only_what_is_served_before_it_and_tried_stays(
    client: Any, slots: Slots, tmp_path: Path
) -> None:
    name = "swept"
    slot, cache, (first, second) = offered(client, slots, tmp_path, name)
    (cache / f".{name}-9.1234.torn").mkdir()
    third, fourth = (put(client, name, tmp_path / word, power) for word, power in (("3", 2.0), ("4", 2.5)))
    seen = []
    for version in (second, third, fourth):
        client.set_registered_model_alias(name, "live", version)
        serving.reconcile(client, slot, cache)
        if slot.candidate is not None:
            drive(slot, cache, 300, ["good"])
            guarding.guard(slot, cache)
        serving.reconcile(client, slot, cache)
        seen.append(sorted(path.name for path in cache.iterdir() if path.is_dir()))
    assert seen == [[f"{name}-{one}" for one in pair] for pair in ((first, second), (second, third), (third, fourth))]


def test_a_poll_of_a_ledger_that_did_not_change_is_one_request(
    client: Any, servers: services.Services, crown: Callable[..., None], slots: Slots, tmp_path: Path
) -> None:
    name = "polled"
    s3 = store.connect(s3_config(servers))
    versions = [put(client, name, tmp_path / word, power) for word, power in (("1", 1.0), ("2", 2.0))]
    for version in versions * 2:
        crown(name, version)
    asked: list[str] = []
    s3.meta.events.register("before-send.s3", lambda request, **_: asked.append(request.url))
    known = ledger.newer(s3, servers.bucket, name)
    assert known.entries == ledger.read(s3, servers.bucket, name) and len(known.entries) == 8
    asked.clear()
    assert ledger.newer(s3, servers.bucket, name, known) is known and len(asked) == 1
    crown(name, versions[0])
    asked.clear()
    more = ledger.newer(s3, servers.bucket, name, known)
    assert more.entries == ledger.read(s3, servers.bucket, name) and len(more.entries) == 10
    crowded = store.connect(s3_config(servers))  # where foreign names fill the first page of what lies behind the last
    crowded.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 1})
    assert ledger.newer(crowded, servers.bucket, name, known).entries == more.entries
    key = f"ledger/{name}/000010.json"
    body = store.read_object(s3, servers.bucket, key)
    assert body is not None
    s3.put_object(Bucket=servers.bucket, Key=key, Body=body.replace(b'"who":"me"', b'"who":"it"'))
    with pytest.raises(ledger.CorruptLedger, match="entry 10"):
        ledger.read(s3, servers.bucket, name, client)
    edited = ledger.newer(s3, servers.bucket, name, more).entries
    assert edited[-1].who == "it", "an edited end is not overlooked by who knew it before"
    s3.delete_object(Bucket=servers.bucket, Key=f"ledger/{name}/000009.json")
    s3.delete_object(Bucket=servers.bucket, Key=key)
    assert ledger.newer(s3, servers.bucket, name, more).entries == known.entries, "one that was cut off is read anew"


def test_a_ledger_whose_end_was_cut_off_in_the_bucket_brings_no_earlier_champion_back(
    client: Any, servers: services.Services, crown: Callable[..., None], slots: Slots, tmp_path: Path
) -> None:
    name, s3 = "cut-off", store.connect(s3_config(servers))
    versions = [put(client, name, tmp_path / word, power) for word, power in (("1", 1.0), ("2", 2.0))]
    for version in versions:
        crown(name, version)
    slot = slots(name, "champion")
    serving.reconcile(client, slot, tmp_path / "cache")
    for number in (3, 4):
        s3.delete_object(Bucket=servers.bucket, Key=f"ledger/{name}/{number:06d}.json")
    serving.reconcile(client, slot, tmp_path / "cache")
    assert version_of(slot) == versions[1] and slot.candidate is None and "entry 4" in str(slot.trouble)
    fresh = slots(name, "champion")
    serving.reconcile(client, fresh, tmp_path / "another")
    assert fresh.serving is None and "entry 4" in str(fresh.trouble)


def test_an_alias_that_goes_back_ends_the_trial(client: Any, slots: Slots, tmp_path: Path) -> None:
    slot, cache, (first, _) = offered(client, slots, tmp_path, "withdrawn")
    client.set_registered_model_alias("withdrawn", "live", first)
    serving.reconcile(client, slot, cache)
    assert slot.candidate is None and slot.phase is None and slot.refused is None and version_of(slot) == first


@pytest.mark.parametrize("asked_to", [False, True])
def test_the_ledger_is_rolled_back_only_when_that_was_asked_for(
    asked_to: bool, client: Any, servers: services.Services, crown: Callable[..., None], slots: Slots, tmp_path: Path
) -> None:
    name, cache = f"ledger-{asked_to}".lower(), tmp_path / "cache"
    first, second = put(client, name, tmp_path / "1", 1.0), put(client, name, tmp_path / "2", 3.0, unknown=9.0)
    slot = slots(name, "champion", TRIED.model_copy(update={"rollback": asked_to}))
    for version in (first, second):
        crown(name, version)
        serving.reconcile(client, slot, cache)
    drive(slot, cache, 400, ["xylograph bad"])
    assert version_of(slot) == first
    serving.reconcile(client, slot, cache)
    done = opening.entries_of(client, name)
    assert (done[-1].action, done[-1].target) == (("rollback", first) if asked_to else ("promote", second))
    assert ("agrees" in done[-1].why) == asked_to
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == first and (slot.refused is None) == asked_to
    third = put(client, name, tmp_path / "3", 2.0)
    crown(name, third)
    serving.reconcile(client, slot, cache)
    assert slot.candidate is not None and slot.candidate.served.version == third


def test_a_rollback_in_the_ledger_is_followed_without_a_trial(
    client: Any, servers: services.Services, crown: Callable[..., None], slots: Slots, tmp_path: Path
) -> None:
    from flows.servers import s3_config
    from registry import store

    name, cache = "way-back", tmp_path / "cache"
    first, second = put(client, name, tmp_path / "1", 1.0), put(client, name, tmp_path / "2", 3.0)
    crown(name, first)
    crown(name, second)
    slot = slots(name, "champion", TRIED)
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == second
    s3 = store.connect(s3_config(servers))
    promotion.rollback(
        client, s3, servers.bucket, tmp_path / "lock", name, "me", "a complaint", keys.of_ledger(settings())
    )
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == first and slot.phase is None and slot.candidate is None


def test_a_killed_process_is_started_again_and_one_that_does_not_stay_up_gives_way(
    client: Any, slots: Slots, tmp_path: Path
) -> None:
    name = "killed"
    slot, cache, (first, second) = offered(client, slots, tmp_path, name, Options(shadow=0, canary=0.5))
    drive(slot, cache, 300, LIVE)
    assert version_of(slot) == second and slot.phase is None
    for death in range(3):
        assert slot.serving is not None
        os.kill(slot.serving.child.process.pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while slot.restarts <= death or slot.serving.child.gone:
            guarding.guard(slot, cache)
            assert time.monotonic() < until
        assert drive(slot, cache, 1, LIVE) == [second]
    assert slot.retreat is not None and "ended 3 times" in slot.retreat
    serving.reconcile(client, slot, cache)
    assert version_of(slot) == first and slot.refused is not None and slot.refused.version == second
    assert evidence(client, name, second).phase == "in place"
    kept = [cache / f"{name}-{first}" / "model" / "config.json", *cache.glob("*.json")]
    assert all(path.is_file() for path in kept)


@pytest.fixture
def held(slots: Slots, tmp_path: Path) -> lanes.Slot:
    model = make_model(tmp_path / "model", 1.0)
    golden = make_golden(tmp_path / "evidence", model) / "golden.json"
    return slots("held", serving=opening.opened(model, golden, "7"))


def test_metrics_say_what_happened_and_no_text(held: lanes.Slot) -> None:
    with TestClient(api.application(held)) as http:
        http.post("/predict", json={"texts": ["marked-live-text"]})
        http.post("/predict", json={"texts": []})
        http.get("/marked-path")
        found = http.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    for line in (
        'shrink_requests_total{code="200",path="/predict",version="7"} 1.0',
        'shrink_requests_total{code="422",path="/predict",version=""} 1.0',
        'shrink_requests_total{code="404",path="other",version=""} 1.0',
        'shrink_request_seconds_count{path="/predict",version="7"} 1.0',
        'shrink_version_info{model="held",phase="",role="serving",version="7"} 1.0',
        "shrink_waiting 0.0",
        "shrink_rollbacks_total 0.0",
    ):
        assert line in found.text, f"{line} is not in\n{found.text}"
    (memory,) = [line for line in found.text.splitlines() if line.startswith("shrink_child_resident_bytes{")]
    assert 2e7 < float(memory.split()[-1]) < 1e9 and "marked" not in found.text


def test_a_token_is_asked_of_everybody_and_health_tells_strangers_no_more_than_a_word(held: lanes.Slot) -> None:
    http = TestClient(api.application(held, "a-token-of-16-characters"))
    ask = {"json": {"texts": ["good"]}}
    for wrong in ({}, {"Authorization": "Bearer another"}, {"Authorization": "a-token-of-16-characters"}):
        refused = http.post("/predict", headers=wrong, **ask)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert http.get("/metrics").status_code == http.get("/openapi.json").status_code == 401
    assert http.get("/healthz").json() == {"status": "serving"}
    right = {"Authorization": "Bearer a-token-of-16-characters"}
    assert http.post("/predict", headers=right, **ask).status_code == 200
    assert http.get("/healthz", headers=right).json()["version"] == "7"


def test_an_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    assert doorway.token_of("127.0.0.1", None, None) is doorway.token_of("::1", None, None) is None
    with pytest.raises(ShrinkError, match=r"host is '0\.0\.0\.0', which others can reach, but there is no token"):
        doorway.token_of("0.0.0.0", None, None)
    file = tmp_path / "token"
    for content, mode, said in (
        ("a-token-of-16-characters\n", 0o644, "anybody may read"),
        ("short", 0o600, "holds no token of 16"),
    ):
        file.write_text(content)
        file.chmod(mode)
        with pytest.raises(ShrinkError, match=said):
            doorway.token_of("0.0.0.0", None, file)
    with pytest.raises(ShrinkError, match="No such file"):
        doorway.token_of("127.0.0.1", None, tmp_path / "none")
    file.write_text("a-token-of-16-characters\n")
    assert doorway.token_of("0.0.0.0", None, file) == "a-token-of-16-characters"


def test_more_requests_than_there_is_room_for_are_told_when_to_come_again(held: lanes.Slot) -> None:
    held.waiting = doorway.MOST
    http = TestClient(api.application(held))
    refused = http.post("/predict", json={"texts": ["good"]})
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert http.get("/healthz").status_code == 200 and held.waiting == doorway.MOST


def test_the_description_of_the_server_is_whole_and_loads_nothing_from_elsewhere(held: lanes.Slot) -> None:
    http = TestClient(api.application(held))
    found = http.get("/openapi.json").json()
    for path, field in (("/predict", "texts"), ("/embed", "pairs"), ("/generate", "prompt")):
        body = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert field in body["properties"] and body["additionalProperties"] is False
    assert "$ref" not in json.dumps(found["paths"]["/generate"]["post"]["requestBody"])
    for path, answer in (("/predict", "predictions"), ("/embed", "embeddings"), ("/generate", "text")):
        said = found["paths"][path]["post"]["responses"]
        assert set(said) == {"200", "401", "404", "408", "413", "422", "503"}
        named = said["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        assert answer in found["components"]["schemas"][named]["properties"]
    real = http.post("/predict", json={"texts": ["good", "bad"]}).json()
    assert answers.Predicted.model_validate(real).model_dump(exclude_none=True) == real
    for code, body in ((422, b"{}"), (413, b" " * (bodies.MAX_BYTES + 1))):
        refused = http.post("/predict", content=body)
        assert refused.status_code == code and answers.Refusal.model_validate(refused.json())
    head = http.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")
    assert http.get("/docs").status_code == http.get("/redoc").status_code == 404


def test_what_waits_together_goes_through_the_model_together(held: lanes.Slot) -> None:
    assert held.serving is not None
    child = held.serving.child
    os.kill(child.process.pid, signal.SIGSTOP)
    asked = [child.ask({"texts": [text]})[1] for text in ("good", "bad film", "fine")]
    time.sleep(0.2)
    os.kill(child.process.pid, signal.SIGCONT)
    answers = [future.result(20) for future in asked]
    assert max(one["together"] for one in answers) >= 2
    alone = [child.ask({"texts": [text]})[1].result(20) for text in ("good", "bad film", "fine")]
    assert [one["rows"] for one in answers] == [one["rows"] for one in alone]


LLAMA = pytest.param("llama_cpp", marks=pytest.mark.skipif(find_spec("llama_cpp") is None, reason="it is an extra"))


@pytest.fixture(params=["transformers", LLAMA])
def writes(slots: Slots, tmp_path: Path, request: pytest.FixtureRequest) -> lanes.Slot:
    from tasks.generate.runtime import open_model
    from tests.tasks.generate import decoders
    from tests.tasks.generate.test_export import export

    folder = tmp_path / "model"
    if request.param == "transformers":
        decoders.folder(folder, max_position_embeddings=64)
        config = json.loads((folder / "config.json").read_text()) | {"task": "generate"}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        export(decoders.folder(tmp_path / "lm", head_dim=16, max_position_embeddings=64), folder)
    opened = open_model(folder, request.param)
    prompts = ["the quick brown", "the lazy dog"]
    ids = [list(opened.stream(opened.ids(one), 4)) for one in prompts]
    golden = {"runtime": request.param, "prompts": prompts, "ids": ids, "logprobs": []}
    from tasks.generate.multiple_choice import log_probabilities

    for prompt, found in zip(prompts, ids, strict=True):
        known = opened.ids(prompt)
        logits = opened.logits(known + found)[len(known) - 1 : -1]
        golden["logprobs"].append(log_probabilities(logits, found).tolist() if found else [])
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    return slots("writes", serving=opening.opened(folder, tmp_path / "golden.json", "1"))


def test_a_model_that_writes_answers_whole_and_as_it_writes(writes: lanes.Slot, tmp_path: Path) -> None:
    from tasks.generate.runtime import open_model

    assert writes.serving is not None
    ours = open_model(tmp_path / "model", writes.serving.served.runtime)  # type: ignore[arg-type]
    prompt = ours.ids("the quick")
    expected = ours.text(list(ours.stream(prompt, 12)))
    with TestClient(api.application(writes)) as http:
        body = {"prompt": "the quick", "raw": True, "max_tokens": 12}
        whole = http.post("/generate", json=body).json()
        assert (whole["text"], whole["version"], whole["prompt_tokens"]) == (expected, "1", len(prompt))
        with http.stream("POST", "/generate", json={**body, "stream": True}) as streamed:
            assert streamed.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if line]
        assert "".join(one.get("text", "") for one in events) == expected
        assert events[-1]["done"] == {"tokens": whole["tokens"], "prompt_tokens": len(prompt)} and len(events) > 3
        chat = http.post("/generate", json={"messages": [{"role": "user", "content": "the fox"}], "max_tokens": 3})
        assert chat.status_code == 200 and chat.json()["tokens"] <= 3
        for wrong, field in (
            ({"prompt": "the " * 100, "raw": True}, "prompt"),
            ({"prompt": "x", "messages": []}, "messages"),
            ({"prompt": " \n"}, "prompt"),
            ({}, "prompt"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
            ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
            ({"prompt": "x", "temperature": 1}, "temperature"),
        ):
            refused = http.post("/generate", json=wrong)
            assert refused.status_code == 422 and refused.json()["detail"][0]["field"] == field, refused.text
        assert "reads 64" in http.post("/generate", json={"prompt": "the " * 100, "raw": True}).text
        assert http.post("/predict", json={"texts": ["x"]}).status_code == 404
    with pytest.raises(opening.Unfit, match=r"golden|differ"):
        golden = json.loads((tmp_path / "golden.json").read_text())
        golden["logprobs"] = [[value - 1 for value in row] for row in golden["logprobs"]]
        (tmp_path / "wrong.json").write_text(json.dumps(golden))
        opening.opened(tmp_path / "model", tmp_path / "wrong.json", "2")


def test_a_shadow_that_writes_is_compared_by_its_first_word(writes: lanes.Slot, tmp_path: Path) -> None:
    candidate = opening.opened(tmp_path / "model", tmp_path / "golden.json", "2")
    with writes.lock:
        writes.options, writes.candidate = TRIED, candidate
        writes.begin("shadow")
    with TestClient(api.application(writes)) as http:
        for place in range(6):
            body = {"prompt": "the quick", "max_tokens": 5, "raw": True, "stream": place % 2 == 1}
            found = http.post("/generate", json=body)
            assert found.status_code == 200
            until = time.monotonic() + 20
            while writes.copies and time.monotonic() < until:
                time.sleep(0.01)
    assert (writes.compared, writes.agreed) == (6, 6)
    assert candidate.tally.numbers().requests == 6


def test_a_body_of_declared_length_is_refused_before_it_is_sent(held: lanes.Slot) -> None:
    http = TestClient(api.application(held))
    refused = http.post("/predict", headers={"content-length": str(bodies.MAX_BYTES + 1)}, content=b"{}")
    assert refused.status_code == 413


@pytest.mark.parametrize(("ends", "code"), [("never", 408), ("cut off", 400)])
def test_half_a_body_does_not_keep_its_place_for_long(ends: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]
    parts += [{"type": "http.disconnect"}] if ends == "cut off" else []

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.sleep(30)
        return parts.pop(0)

    with pytest.raises(HTTPException) as refused:
        asyncio.run(bodies.body_of(Request({"type": "http", "method": "POST", "headers": []}, receive)))
    assert refused.value.status_code == code and str(refused.value.detail).startswith("body: ")
