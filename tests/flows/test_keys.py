"""Which key signs and which are trusted, by the environment and by `shrink up`; what the doctor says of them."""

import os
from pathlib import Path

import pytest

from flows import doctor, keys, made_of, named
from flows.recipe import load
from flows.settings import settings, worker_environment
from infra import keys as made
from infra.addresses import Services
from registry.records import ShrinkError
from tests import signatures
from tests.flows.test_compress import shrink
from tests.registry.samples import record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (keys.SIGNING, keys.TRUSTED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHRINK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_pair_of_this_place_signs_and_is_trusted(home: Path) -> None:
    for asked in (keys.signer, keys.trust, keys.ready):
        with pytest.raises(ShrinkError, match=r"is not set and '.*' is missing; name .*, or `shrink up` makes one\.$"):
            asked(settings())
    assert doctor.signatures(home).state == "warn"
    mine = signatures.key(home)
    assert keys.ready(settings()) == mine and keys.trust(settings()).keys == (mine.public,)
    told = doctor.signatures(home)
    assert told.state == "ok" and told.what == f"signs with {mine.public.id[:12]}, trusts {mine.public.id[:12]}"
    (made.folder(home) / made.KEY).unlink()
    assert keys.trust(settings()).keys == (mine.public,), "which a place that only verifies needs alone"
    assert doctor.signatures(home).state == "warn"
    (made.folder(home) / made.PUBLIC).write_text("x")
    assert doctor.signatures(home).state == "broken"


def test_keys_named_by_the_environment_come_in_their_place(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = signatures.key(home), signatures.key(tmp_path / "other")
    monkeypatch.setenv(keys.SIGNING, str(other.path))
    assert keys.ready(settings()) == other and keys.trust(settings()).keys == (other.public,)
    publics = [str(made.folder(place) / made.PUBLIC) for place in (home, tmp_path / "other")]
    monkeypatch.setenv(keys.TRUSTED, os.pathsep.join(publics))
    assert keys.ready(settings()) == other and keys.trust(settings()).keys == (own.public, other.public)
    monkeypatch.setenv(keys.TRUSTED, publics[0])
    with pytest.raises(ShrinkError, match=f"does not hold the key {other.public.id[:12]} that SHRINK_SIGNING_KEY"):
        keys.ready(settings())
    assert doctor.signatures(home).state == "warn"
    monkeypatch.setenv(keys.TRUSTED, str(other.path))
    with pytest.raises(ShrinkError, match=r"SHRINK_TRUSTED_KEYS is '.*' but that is no public key"):
        keys.trust(settings())
    assert keys.SIGNING not in worker_environment(1), "stages have nothing to do with it"


def test_a_run_without_a_key_that_will_do_is_refused_before_any_work(
    home: Path, servers: Services, servers_home: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = tmp_path / "open.key"
    readable.write_bytes(signatures.key(tmp_path / "other").path.read_bytes())
    readable.chmod(0o644)
    monkeypatch.setenv(keys.SIGNING, str(readable))
    before = sorted((servers_home / "runs").glob("*"))
    refused = shrink(servers_home, "run", str(tiny / "tiny.yaml"), check=2)
    assert f"SHRINK_SIGNING_KEY is '{readable}' but everybody here may read or write it" in " ".join(
        refused.stderr.split()
    )
    assert sorted((servers_home / "runs").glob("*")) == before


def test_no_key_leaves_its_place(servers: Services, servers_home: Path) -> None:
    """Of the state directory and what the commands print, the folder keys/ alone holds the private key."""
    secret = made.folder(servers_home) / made.KEY
    line = secret.read_text().splitlines()[1]
    printed = [shrink(servers_home, *words, check=None) for words in (("environment",), ("doctor", "--json"))]
    assert all(line not in one.stdout + one.stderr and "PRIVATE" not in one.stdout for one in printed)
    holds = [
        path for path in servers_home.rglob("*") if path.is_file() and line.encode() in path.read_bytes()[:50_000_000]
    ]
    assert holds == [secret]


def test_names_that_would_leave_their_folder_are_refused_before_a_path_is_built() -> None:
    for model in ("../secrets", "a/b@1", "..@champion", "@champion"):
        with pytest.raises(ShrinkError, match="a name has letters"):
            named.split_name(model)


def test_materials_are_found_in_recipe_and_stages(tiny: Path) -> None:
    recipe = load(str(tiny / "tiny.yaml"))
    first = record().model_copy(update={"kind": "data", "inputs": {"source": "b" * 64}})
    found = made_of.origins(recipe, [first])
    assert found["data"].digest == "b" * 64 and found["teacher"].digest is None
    assert made_of.code() == made_of.code() and len(made_of.code()) == 64
    libraries = made_of.libraries()
    assert {"torch", "mlflow", "transformers"} <= libraries.keys()
