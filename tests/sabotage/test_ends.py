"""Sabotage that is no candidate: a lying registry, a moved alias, a link; and real runs, refused after they passed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows import admit, compress, keys, outcome, promote
from flows.servers import client
from flows.settings import settings
from registry import contents, files, promotion, signing, versions
from registry.patience import patiently
from tests.registry.test_patience import outage  # noqa: F401  # pytest finds it by its name
from tests.sabotage.factory import Candidate, Yard, edited, tampering


class Lying:
    """A client of MLflow that lists one file more."""

    def __init__(self, real: Any, listed: Any) -> None:
        self.real, self.listed = real, listed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def list_logged_model_artifacts(self, model_id: str, path: str | None = None) -> list[Any]:
        found = list(self.real.list_logged_model_artifacts(model_id, path))
        return [*found, self.listed] if path == "model" else found


@pytest.mark.parametrize(
    ("path", "size", "said"),
    [
        ("model/../../../etc/cron.d/evil", 10, "which none may have"),
        ("/etc/passwd", 10, "which none may have"),
        ("model/..\\evil.json", 10, "which none may have"),
        ("model/more.onnx", 10**13, "and it is registered with"),
    ],
    ids=["path traversal", "absolute path", "backslash", "terabytes"],
)
def test_sabotage_by_a_lying_registry(
    yard: Yard, sound: dict[str, Candidate], monkeypatch: pytest.MonkeyPatch, path: str, size: int, said: str
) -> None:
    version = yard.register("lied-about", sound["fp32"])
    listed = SimpleNamespace(path=path, is_dir=False, file_size=size)
    monkeypatch.setattr(admit, "client", lambda: Lying(yard.client, listed))
    found = admit.admitted("lied-about", version)
    (failed,) = [one for one in found.checks if not one.passed]
    assert failed.name == "files" and said in failed.why


def test_sabotage_by_a_link(tmp_path: Path) -> None:
    for part in ("model", "evidence"):
        (tmp_path / part).mkdir()
    (tmp_path / "secret").write_text("{}")
    assert files.named(tmp_path).passed
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "secret")
    assert not files.named(tmp_path).passed and "no ordinary file" in files.named(tmp_path).why
    with pytest.raises(contents.Foreign, match="neither file nor folder"):
        contents.check_folder(tmp_path, ("model", "evidence"))


def test_sabotage_by_a_bare_client_that_moves_the_alias(yard: Yard, sound: dict[str, Candidate]) -> None:
    name, lock = "moved", yard.home / "locks" / "promotion-moved.lock"
    good = yard.register(name, sound["int8"])
    assert yard.promote(name, good).passed
    gate = {**sound["fp32"].gate, "bytes_ratio_min": 1000.0}
    bad = yard.register(name, sound["fp32"].model_copy(update={"gate": gate}))
    yard.client.set_registered_model_alias(name, "champion", bad)
    assert promotion.champion(yard.s3, yard.bucket, name) == good, "the ledger knows nothing of it"
    promotion.reconcile(yard.client, yard.s3, yard.bucket, lock, name)
    assert versions.alias(yard.client, name, "champion") == good


def test_sabotage_is_refused_by_hand_too_and_force_forgives_a_failed_gate_alone(
    yard: Yard, sound: dict[str, Candidate]
) -> None:
    name, held = "by-hand", sound["fp32"]
    failed = held.model_copy(update={"gate": {**held.gate, "bytes_ratio_min": 1000.0}})
    version = yard.register(name, failed)
    assert not admit.admitted(name, version).passed and admit.admitted(name, version, forced=True).passed
    false = yard.register(name, held, edited("gate.json", lambda said: {**said, "retention_min": 0.1}))
    for force in (False, True):
        ended = promote.promote(f"{name}@{false}", "it looks fine", force)
        assert ended.entry is None and ended.refused.startswith("gate: retention_min is 0.1")
        assert versions.alias(yard.client, name, "challenger") is None, "what was refused challenges nobody"
    assert promotion.champion(yard.s3, yard.bucket, name) is None


def byte_of_the_model(patch: pytest.MonkeyPatch, home: Path, name: str) -> None:
    """The bucket changes between registering and promoting."""
    real = outcome.register

    def register(*given: Any) -> str:
        version = real(*given)
        source = client().get_model_version(name, version).source.removeprefix("models:/")
        (stored,) = [path for path in (home / "s3").rglob("model.onnx") if source in path.parts]
        raw = bytearray(stored.read_bytes())
        raw[-9] ^= 1
        stored.write_bytes(bytes(raw))
        return version

    patch.setattr(outcome, "register", register)


def loosened_gate(patch: pytest.MonkeyPatch, home: Path, name: str) -> None:
    """Whoever may sign loosens a limit just before."""
    patch.setattr(signing, "sign", tampering(edited("gate.json", lambda said: {**said, "bytes_ratio_min": 1.01})))


def nothing(patch: pytest.MonkeyPatch, home: Path, name: str) -> None:
    """A run as it should be."""


@pytest.mark.parametrize(
    ("name", "harm", "demand"),
    [("as-it-is", nothing, ""), ("bucket", byte_of_the_model, "digest: "), ("gate", loosened_gate, "gate: ")],
)
def test_sabotage_of_a_real_run_is_a_refusal_and_no_failure(
    yard: Yard,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    harm: Callable[[pytest.MonkeyPatch, Path, str], None],
    demand: str,
) -> None:
    model = f"run-{name}"
    recipe = {**yaml.safe_load((tiny / "tiny.yaml").read_text()), "name": model}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    harm(monkeypatch, yard.home, model)
    journal = compress.start(str(tmp_path / "recipe.yaml"))
    champion = promotion.champion(yard.s3, yard.bucket, model)
    if not demand:
        assert (journal["status"], journal["refused"], champion) == ("passed", "", journal["version"])
        (reload,) = [stage for stage in journal["stages"] if stage["kind"] == "reload"]
        assert {"score", "golden", "tokenizer"} <= {one["name"] for one in reload["measured"]["checks"]}
        return
    assert journal["status"] == "rejected" and journal["verdict"]["passed"] and champion is None
    assert journal["refused"].startswith(demand)
    assert yard.client.get_model_version(model, journal["version"]).tags[versions.ADMISSION_TAG] == versions.REFUSED


def test_what_is_promoted_or_rejected_between_admission_and_promotion_is_a_result(
    yard: Yard, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "meanwhile"
    content = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"name": model}
    content["gate"] = {**content["gate"], "champion_margin": 0.9}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    where = (yard.client, yard.s3, yard.bucket, yard.home / "locks" / f"promotion-{model}.lock", model)
    held, real = keys.of_ledger(settings()), admit.admitted
    late: list[Callable[[str], Any]] = []

    def admitted(name: str, version: str, shop: Any = None) -> admit.Admission:
        found = real(name, version, shop)
        late.pop()(version)
        return found

    monkeypatch.setattr(admit, "admitted", admitted)
    late.append(lambda version: promotion.reject(*where, version, "me", "rude", keys=held))
    journal = compress.start(str(path))
    assert journal["status"] == "rejected" and "was rejected by me (rude)" in journal["refused"]
    assert versions.alias(yard.client, model, "challenger") is None and not journal["waits"]
    source = yard.client.get_model_version(model, journal["version"]).source
    stored = source.removeprefix("models:/")
    yard.client.create_model_version(model, source, tags={versions.DIGEST_TAG: "f" * 64}, model_id=stored)
    promotion.approve(*where, journal["version"], "me", "not so rude", keys=held)
    another = promotion.Judged(digest="f" * 64, passed=True)
    late.append(lambda _: promotion.promote(*where, "2", "me", "sooner", another, keys=held))
    journal = compress.start(str(path))
    assert journal["status"] == "rejected" and "it was compared with none, and version 2" in journal["refused"]
    assert promotion.champion(yard.s3, yard.bucket, model, trust=held.trust) == "2"


def test_mlflow_that_ends_while_a_person_promotes_is_waited_for(
    yard: Yard,
    sound: dict[str, Candidate],
    outage: Any,  # noqa: F811
) -> None:
    name = "awaited"
    version = yard.register(name, sound["int8"])
    outage("mlflow", lambda method, url: url.endswith("registered-models/alias"), 3)  # the intent stands by then
    ended = patiently(promote.promote, f"{name}@{version}", "it looks fine", False)
    assert ended.entry is not None and ended.entry.target == version and not ended.before
    assert versions.alias(yard.client, name, "champion") == version
    assert [one.event for one in promotion.history(yard.s3, yard.bucket, name)] == ["intent", "done"]
    assert promote.promote(f"{name}@{version}", "once more", False).before
