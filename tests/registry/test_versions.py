"""Runs, versions and promotion against a real MLflow server and a real S3."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from infra.addresses import Services
from registry import attested, download, mlmodel, promotion, runs, store, versions
from registry.gate import Gate, judge
from registry.records import ShrinkError, digest_directory, directory_bytes
from registry.signing import Trust
from tests import signatures
from tests.registry.samples import evaluation, record

BUCKET = "promotion-tests"


@pytest.fixture(scope="module", autouse=True)
def bucket(s3: Any) -> str:
    store.ensure_bucket(s3, BUCKET)
    return BUCKET


@pytest.fixture
def run_id(client: Any) -> str:
    return runs.open_run(client, "tests", "run", {runs.RUN_TAG: uuid.uuid4().hex})


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


def _register(client: Any, tmp_path: Path, name: str, run_id: str, text: str, verdict: str = "passed") -> str:
    model, evidence = tmp_path / f"{text}-model", tmp_path / f"{text}-evidence"
    for folder in (model, evidence):
        folder.mkdir(exist_ok=True)
        (folder / "file.txt").write_text(text)
    (model / "sub").mkdir(exist_ok=True)
    (model / "sub" / "tokenizer.json").write_text("{}")
    tags = {versions.RECIPE_TAG: "r", versions.VERDICT_TAG: verdict}
    signature = signatures.sealed(name, model, evidence, tmp_path / "home")
    return versions.register(
        client, name, model, evidence, digest_directory(model), tags, "about", run_id, _trust(tmp_path), signature
    )


def _trust(tmp_path: Path) -> Trust:
    return signatures.trust(tmp_path / "home")


def _fetch(client: Any, name: str, version: str, dest: Path, digest: str | None = None) -> Path:
    """With the trust of the test that `dest` is of."""
    return versions.fetch(client, name, version, dest, _trust(dest.parent), digest)


def test_stages_are_logged_once_below_their_run(client: Any, run_id: str) -> None:
    curves = [("loss", 1.0, 0), ("loss", 0.5, 1), ("loss", float("nan"), 2)]
    rows = runs.DataSet(name="rated.txt", digest="a" * 64, source="pypi:rated==1", rows={"train_rows": 7})
    child = runs.log_stage(client, run_id, record(), curves, rows)
    assert runs.log_stage(client, run_id, record(), curves, rows) == child
    runs.log_recipe(client, run_id, {"name": "tiny", "data": {"file": "f"}, "stages": [{"kind": "label"}]}, "a note")
    seen = client.get_run(child)
    assert seen.data.tags["mlflow.parentRunId"] == run_id and seen.info.status == "FINISHED"
    assert seen.data.params["config.epochs"] == "3" and seen.data.params["input.data"] == "a" * 64
    assert [point.value for point in client.get_metric_history(child, "loss")] == [1.0, 0.5]
    assert seen.data.metrics["kwh"] == 0.2 and "measured.broken" not in seen.data.metrics
    (data,) = [one.dataset for one in seen.inputs.dataset_inputs]
    assert data.name == "rated.txt" and "a" * 64 in data.source and "pypi:rated==1" in data.source
    told = client.get_run(run_id).data
    assert told.params["data.file"] == "f" and told.params["stages.00"] == '{"kind": "label"}'
    assert told.tags["mlflow.note.content"] == "a note"
    runs.log_evaluation(client, run_id, evaluation(), judge(Gate(), evaluation()))
    runs.close_run(client, run_id, "FINISHED")
    parent = client.get_run(run_id)
    assert parent.data.metrics["evaluation.retention.low"] == 0.96 and parent.data.metrics["gate.beat_floor"] == 1
    assert parent.info.status == "FINISHED"


def test_a_run_is_opened_again_by_its_tag(client: Any) -> None:
    tags = {runs.RUN_TAG: uuid.uuid4().hex}
    first = runs.open_run(client, "tests", "run", tags)
    runs.close_run(client, first, "KILLED")
    assert runs.open_run(client, "tests", "run", tags) == first
    assert client.get_run(first).info.status == "RUNNING"


def test_a_version_is_registered_once_and_comes_back_verified(
    client: Any, run_id: str, name: str, tmp_path: Path
) -> None:
    version = _register(client, tmp_path, name, run_id, "one")
    assert _register(client, tmp_path, name, run_id, "one") == version == "1"
    got = _fetch(client, name, version, tmp_path / "got")
    assert [one.model_id for one in client.get_run(run_id).outputs.model_outputs]
    assert digest_directory(got / "model") == versions.describe(client, name, version)["digest"]
    assert (got / "evidence" / "file.txt").read_text() == "one"
    assert _fetch(client, name, version, got) == got
    (got / "model" / "file.txt").write_text("changed")
    _fetch(client, name, version, got)
    assert (got / "model" / "file.txt").read_text() == "one", "a damaged copy is fetched again"


def test_fetches_at_once_all_end_with_the_whole_version(
    client: Any, run_id: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, real, together = _register(client, tmp_path, name, run_id, "one"), download.download, Barrier(3)

    def downloads(*given: Any) -> Path:
        got = real(*given)
        together.wait(60)  # all have found nothing, or a damaged copy, before the first puts its own there
        return got

    monkeypatch.setattr(versions, "download", downloads)
    kept = tmp_path / "kept" / version
    for _ in ("nothing there", "a damaged copy there"):
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(versions.fetch, client, name, version, kept, _trust(tmp_path)) for _ in range(3)]
        assert {job.result() for job in jobs} == {kept} and (kept / "model" / "file.txt").read_text() == "one"
        assert list(kept.parent.iterdir()) == [kept]
        (kept / "model" / "file.txt").write_text("changed")


def test_a_damaged_version_and_another_verdict_are_registered_anew(
    client: Any,
    servers_home: Path,
    run_id: str,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _register(client, tmp_path, name, run_id, "one", versions.REJECTED) == "1"
    assert _register(client, tmp_path, name, run_id, "one") == "2", "a passed run does not take up the rejected one"
    assert [versions.describe(client, name, one)["verdict"] for one in "12"] == [versions.REJECTED, versions.PASSED]
    source = client.get_model_version(name, "2").source.removeprefix("models:/")
    (stored,) = [path for path in (servers_home / "s3").rglob("tokenizer.json") if source in path.parts]
    stored.write_text("[]")
    assert _register(client, tmp_path, name, run_id, "one") == "3" and "version 2" in caplog.text
    assert (_fetch(client, name, "3", tmp_path / "got") / "model" / "file.txt").read_text() == "one"
    assert _register(client, tmp_path, name, run_id, "one") == "3"
    assert _register(client, tmp_path, name, run_id, "one", versions.REJECTED) == "1"

    def gone(*given: Any) -> Path:  # two minutes of MLflow's own retries when the files are really gone from S3
        raise MlflowException("500 Server Error")

    monkeypatch.setattr(versions, "download", gone)
    assert _register(client, tmp_path, name, run_id, "one") == "4", "what is gone from S3 is uploaded anew"


@pytest.mark.parametrize("dies_at", ["finalize_logged_model", "create_model_version"])
def test_a_registration_that_was_killed_leaves_nothing_behind(
    client: Any, run_id: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    def dies(*args: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, dies_at, dies)
    with pytest.raises(KeyboardInterrupt):
        _register(client, tmp_path, name, run_id, "one")
    monkeypatch.undo()
    version = _register(client, tmp_path, name, run_id, "one")
    experiment = client.get_run(run_id).info.experiment_id
    (kept,) = client.search_logged_models([experiment], f"name = '{name}'")
    assert str(kept.status) == "READY" and versions.describe(client, name, version)["source"].endswith(kept.model_id)
    assert (_fetch(client, name, version, tmp_path / "got") / "model" / "file.txt").read_text() == "one"


def test_bytes_that_do_not_fit_the_digest_are_not_loaded(client: Any, run_id: str, name: str, tmp_path: Path) -> None:
    version = _register(client, tmp_path, name, run_id, "one")
    with pytest.raises(versions.CorruptVersion, match="another digest"):
        _fetch(client, name, version, tmp_path / "got", digest="0" * 64)
    client.set_model_version_tag(name, version, versions.DIGEST_TAG, "0" * 64)
    with pytest.raises(versions.CorruptVersion, match="does not hold"):
        _fetch(client, name, version, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    with pytest.raises(versions.CorruptVersion, match="changed after"):
        versions.register(client, name, tmp_path / "one-model", None, "0" * 64, {}, "", run_id, _trust(tmp_path), None)


def _stored(client: Any, servers_home: Path, name: str, version: str) -> Path:
    """The folder in the S3 that holds a version's files."""
    source = client.get_model_version(name, version).source.removeprefix("models:/")
    (found,) = [path for path in (servers_home / "s3").rglob("artifacts") if source in path.parts]
    return found


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model/file.txt", "two", "does not hold the model with digest"),
        ("model/more.json", "{}", r"lists \d+ bytes, and it is registered with \d+"),
        ("model/weights.pkl", "x", "'model/weights.pkl', a kind of file that no version has"),
        ("code/run.json", "{}", "'code/run.json', which is in none of model, evidence, signature"),
        ("model/.gitattributes", "x", "'model/.gitattributes', which none may have"),
        ("signature/model.sig", None, "is not signed"),
    ],
)
def test_what_was_put_into_the_store_is_refused(
    client: Any,
    s3: Any,
    servers: Services,
    servers_home: Path,
    run_id: str,
    name: str,
    tmp_path: Path,
    file: str,
    content: str | None,
    said: str,
) -> None:
    version = _register(client, tmp_path, name, run_id, "one")
    folder = _stored(client, servers_home, name, version).relative_to(servers_home / "s3" / servers.bucket)
    where = {"Bucket": servers.bucket, "Key": (folder / file).as_posix()}
    if content is None:
        s3.delete_object(**where)
        client.delete_model_version_tag(name, version, versions.BYTES_TAG)  # who may write may remove it too
    else:
        s3.put_object(**where, Body=content.encode())
    with pytest.raises(versions.CorruptVersion, match=said):
        _fetch(client, name, version, tmp_path / "got")
    assert not (tmp_path / "got").exists() and not list(tmp_path.glob(".got*"))


def test_artifacts_and_tags_changed_together_do_not_outvote_the_signature(
    client: Any, servers_home: Path, run_id: str, name: str, tmp_path: Path
) -> None:
    version = _register(client, tmp_path, name, run_id, "one", versions.REJECTED)
    stored = _stored(client, servers_home, name, version)
    (stored / "evidence" / "file.txt").write_text("two")
    client.set_model_version_tag(name, version, versions.EVIDENCE_TAG, digest_directory(stored / "evidence"))
    with pytest.raises(versions.CorruptVersion, match=r"what was signed: evidence/file\.txt was changed"):
        _fetch(client, name, version, tmp_path / "got")
    other = _register(client, tmp_path, f"{name}-other", run_id, "one")
    signature = _stored(client, servers_home, f"{name}-other", other) / "signature" / "model.sig"
    (stored / "evidence" / "file.txt").write_text("one")
    client.set_model_version_tag(name, version, versions.EVIDENCE_TAG, digest_directory(stored / "evidence"))
    assert _fetch(client, name, version, tmp_path / "got").is_dir()
    (stored / "signature" / "model.sig").write_bytes(signature.read_bytes())
    held = directory_bytes(stored) - (stored / mlmodel.FILE).stat().st_size  # which is MLflow's own clients' alone
    client.set_model_version_tag(name, version, versions.BYTES_TAG, str(held))
    with pytest.raises(versions.CorruptVersion, match=f"signed as a version of '{name}-other'"):
        _fetch(client, name, version, tmp_path / "again")


def test_another_key_is_not_believed_and_a_new_one_signs_anew(
    client: Any, run_id: str, name: str, tmp_path: Path
) -> None:
    version = _register(client, tmp_path, name, run_id, "one")
    got, fresh = _fetch(client, name, version, tmp_path / "got"), signatures.trust(tmp_path / "new")
    for dest in (tmp_path / "elsewhere", got):  # what lies there already is believed no more than what is fetched
        with pytest.raises(versions.CorruptVersion, match="which is not trusted"):
            versions.fetch(client, name, version, dest, fresh)
    (tmp_path / "home").rename(tmp_path / "old")
    second = _register(client, tmp_path, name, run_id, "one")
    assert (version, second) == ("1", "2"), "what the old key signed is not taken up once it is not trusted"
    both = signatures.trust(tmp_path / "home", tmp_path / "old")
    assert all(versions.fetch(client, name, one, tmp_path / one, both).is_dir() for one in (version, second))


def test_a_rejected_version_whose_tag_says_passed_is_not_taken_up(
    client: Any, run_id: str, name: str, tmp_path: Path
) -> None:
    gate, lax = Gate(retention_min=0.99), Gate()
    made = []
    for word, one in ((versions.REJECTED, gate), (versions.PASSED, lax)):
        model, evidence = tmp_path / "model", tmp_path / word
        for folder in (model, evidence):
            folder.mkdir(exist_ok=True)
        (model / "file.txt").write_text("one")
        digest, verdict = digest_directory(model), judge(one, evaluation())
        assert verdict.passed == (word == versions.PASSED)
        attested.write(evidence, digest, evaluation(), one, verdict, {})
        signature = signatures.sealed(name, model, evidence, tmp_path / "home")
        tags = {versions.RECIPE_TAG: "r", versions.VERDICT_TAG: word}
        trust = _trust(tmp_path)
        made.append(versions.register(client, name, model, evidence, digest, tags, "", run_id, trust, signature))
        client.set_model_version_tag(name, "1", versions.VERDICT_TAG, versions.PASSED)
    assert made == ["1", "2"]
    got = _fetch(client, name, "1", tmp_path / "got")
    assert versions.describe(client, name, "1")["verdict"] == versions.PASSED, "which MLflow says"
    assert not attested.verdict(got).passed and attested.gate(got) == gate
    assert attested.evaluation(got) == (digest_directory(got / "model"), evaluation())


def test_evidence_that_says_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    with pytest.raises(attested.Incomplete, match=r"has no verdict\.json"):
        attested.verdict(tmp_path)
    for content in ("[", "[]", '{"passed": 1, "checks": "none"}', '{"passed": true}'):
        for name in (attested.VERDICT, attested.EVALUATION):
            (tmp_path / "evidence" / name).write_text(content)
        with pytest.raises(attested.Incomplete, match=r"a verdict\.json that cannot be read"):
            attested.verdict(tmp_path)
        with pytest.raises(attested.Incomplete, match=r"an? evaluation\.json that cannot be read"):
            attested.evaluation(tmp_path)


def test_names_resolve_to_versions_or_say_what_is_missing(client: Any, run_id: str, name: str, tmp_path: Path) -> None:
    version = _register(client, tmp_path, name, run_id, "one")
    assert versions.resolve(client, name, version) == version
    for wanted in ("champion", "99"):
        with pytest.raises(ShrinkError):
            versions.resolve(client, name, wanted)
    with pytest.raises(ShrinkError):
        versions.describe(client, "nobody", "1")


def test_promotion_and_rollback_walk_along_the_ledger(
    client: Any, s3: Any, run_id: str, name: str, tmp_path: Path
) -> None:
    first, second = (_register(client, tmp_path, name, run_id, text) for text in ("one", "two"))
    bad = _register(client, tmp_path, name, run_id, "bad", versions.REJECTED)
    where = (client, s3, BUCKET, tmp_path / "lock", name)
    with pytest.raises(ShrinkError, match="did not pass its gate"):
        promotion.promote(*where, bad, "me", "try")
    assert promotion.champion(s3, BUCKET, name) is None
    promotion.promote(*where, first, "me", "first")
    done = promotion.promote(*where, second, "me", "better")
    assert promotion.promote(*where, second, "me", "again") == done
    assert versions.resolve(client, name, "champion") == second and versions.resolve(client, name, "previous") == first
    promotion.rollback(*where, "me", "worse after all")
    assert versions.resolve(client, name, "champion") == first == promotion.champion(s3, BUCKET, name)
    assert versions.alias(client, name, "previous") is None
    with pytest.raises(ShrinkError, match="no earlier champion"):
        promotion.rollback(*where, "me", "further")
    assert [entry.event for entry in promotion.history(s3, BUCKET, name)] == ["intent", "done"] * 3


def test_promotions_at_once_are_serialised(client: Any, s3: Any, run_id: str, name: str, tmp_path: Path) -> None:
    made = [_register(client, tmp_path, name, run_id, text) for text in ("one", "two", "three")]
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(promotion.promote, client, s3, BUCKET, tmp_path / "lock", name, version, "me", "race")
            for version in made
        ]
    entries = promotion.history(s3, BUCKET, name)
    assert sorted(job.result().target for job in jobs) == sorted(made)
    assert [entry.event for entry in entries] == ["intent", "done"] * 3
    assert versions.resolve(client, name, "champion") == entries[-1].target == promotion.champion(s3, BUCKET, name)
    assert versions.resolve(client, name, "previous") == entries[-1].previous == entries[-3].target
