"""Signatures by real keys over real folders: what holds, what does not, and how it is said."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from infra import keys
from registry import contents, signing
from registry.records import ShrinkError
from registry.signing import Unverified
from tests import signatures

PLAIN = (form.Encoding.PEM, form.PrivateFormat.PKCS8)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A small signed version of the model `tiny`; its key lies in home/."""
    folder = tmp_path / "version"
    for name in ("model/config.json", "model/sub/tokenizer.json", "evidence/verdict.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'"{name}"')
    key = signatures.key(tmp_path / "home")
    parts = {part: folder / part for part in signing.PARTS}
    seal = signing.sign("tiny", parts, key, folder / signing.SIGNATURE)
    assert seal.key == key.public.id and set(seal.files) == {
        "model/config.json",
        "model/sub/tokenizer.json",
        "evidence/verdict.json",
    }
    return folder


def test_a_version_verifies_with_any_trusted_key_and_twice_signed_differs(version: Path, tmp_path: Path) -> None:
    trust = signatures.trust(tmp_path / "other", tmp_path / "home")
    seal = signing.verify("tiny", version, trust)
    assert seal.key == trust.keys[1].id
    before = (version / signing.SIGNATURE).read_bytes()
    parts = {part: version / part for part in signing.PARTS}
    signing.sign("tiny", parts, signatures.key(tmp_path / "home"), version / signing.SIGNATURE)
    assert (version / signing.SIGNATURE).read_bytes() != before, "an EC signature is drawn anew each time"
    assert signing.verify("tiny", version, trust) == seal
    assert [path.name for path in (version / "signature").iterdir()] == ["model.sig"]


def edited(version: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The bundle's signed statement changed, its signature left as it was."""
    path = version / signing.SIGNATURE
    bundle = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(bundle))


def drop(name: str) -> Callable[[Path], None]:
    return lambda version: (version / name).unlink()


def put(name: str, text: str) -> Callable[[Path], None]:
    def write(version: Path) -> None:
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).write_text(text)

    return write


def ignoring(statement: dict[str, Any]) -> None:
    statement["predicate"]["serialization"]["ignore_paths"] = ["model/config.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop(signing.SIGNATURE), "^is not signed$"),
        (put(signing.SIGNATURE, "{"), "damaged signature"),
        (put(signing.SIGNATURE, "[" * 100_000), "damaged signature"),
        (put(signing.SIGNATURE, '{"verificationMaterial": {}}'), "damaged signature"),
        (put(signing.SIGNATURE, " " * 4_000_001), "damaged signature"),
        (put("model/config.json", "{}"), "what was signed: model/config.json was changed$"),
        (put("evidence/verdict.json", "{}"), "evidence/verdict.json was changed$"),
        (put("model/more.json", "{}"), "model/more.json was added$"),
        (put("model/.gitattributes", "x"), "model/.gitattributes was added$"),
        (put("model/.git/config", "x"), "model/.git/config was added$"),
        (drop("model/sub/tokenizer.json"), "model/sub/tokenizer.json is missing$"),
        (lambda version: shutil.rmtree(version / "evidence"), "evidence/verdict.json is missing$"),
        (lambda version: edited(version, lambda said: said.update(predicate={})), "damaged signature"),
        (lambda version: edited(version, ignoring), "damaged signature"),
    ],
)
def test_what_does_not_hold_is_told_apart(
    version: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    change(version)
    with pytest.raises(Unverified, match=said):
        signing.verify("tiny", version, signatures.trust(tmp_path / "home"))


def test_other_keys_and_other_models_are_named(version: Path, tmp_path: Path) -> None:
    mine, other = signatures.trust(tmp_path / "home"), signatures.trust(tmp_path / "other")
    with pytest.raises(Unverified, match=f"key {mine.keys[0].id[:12]}, which is not trusted.*{other.keys[0].id[:12]}"):
        signing.verify("tiny", version, other)
    with pytest.raises(Unverified, match=r"not trusted \(trusted: none\)"):
        signing.verify("tiny", version, signing.Trust(keys=()))
    with pytest.raises(Unverified, match="signed as a version of 'tiny'"):
        signing.verify("another", version, mine)
    path = version / signing.SIGNATURE
    path.write_text(path.read_text().replace(mine.keys[0].id, other.keys[0].id))
    with pytest.raises(Unverified, match="damaged signature"):  # it says that the other key signed
        signing.verify("tiny", version, other)


def test_the_librarys_own_command_verifies_a_version(version: Path, tmp_path: Path) -> None:
    def command() -> int:
        pem = keys.folder(tmp_path / "home") / keys.PUBLIC
        words = ["verify", "key", str(version), "--signature", str(version / signing.SIGNATURE)]
        return subprocess.run(
            [sys.executable, "-m", "model_signing", *words, "--public_key", str(pem)], capture_output=True
        ).returncode

    assert command() == 0
    (version / "model" / "config.json").write_text("{}")
    assert command() == 1


def test_keys_appear_once_and_nobody_else_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.ensure(tmp_path)
    folder = keys.folder(tmp_path)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"keys": 0o700, "signing.key": 0o600, "signing.pub": 0o644}
    keys.ensure(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    (folder / keys.KEY).unlink()
    keys.ensure(tmp_path)
    assert not (folder / keys.KEY).exists(), "a place that only verifies gets no key of its own"
    shutil.rmtree(folder)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        keys.ensure(tmp_path)
    assert not folder.exists(), "no half of a pair"
    monkeypatch.undo()
    keys.ensure(tmp_path)
    assert signatures.key(tmp_path).public == signing.public(folder / keys.PUBLIC, "key")


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_private_keys_that_will_not_do_are_refused_in_one_sentence(tmp_path: Path) -> None:
    good, large = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    other = rsa.generate_private_key(65537, 2048)
    plain = good.private_bytes(*PLAIN, form.NoEncryption())
    cases = [
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "cannot be read"),
        (written(tmp_path / "open", plain, 0o644), "everybody here may read"),
        (written(tmp_path / "secret", good.private_bytes(*PLAIN, form.BestAvailableEncryption(b"x"))), "encrypted"),
        (written(tmp_path / "large", large.private_bytes(*PLAIN, form.NoEncryption())), "secp384r1, not of the curve"),
        (written(tmp_path / "rsa", other.private_bytes(*PLAIN, form.NoEncryption())), "another kind, not of the curve"),
        (written(tmp_path / "text", b"x"), "no private key in PEM"),
    ]
    for path, said in cases:
        with pytest.raises(ShrinkError, match=f"SHRINK_SIGNING_KEY is '{path}' but .*{said}") as caught:
            signing.signer(path, "SHRINK_SIGNING_KEY")
        assert "PRIVATE KEY" not in str(caught.value)
    with pytest.raises(ShrinkError, match="no public key in PEM"):
        signing.public(written(tmp_path / "private", plain), "SHRINK_TRUSTED_KEYS")
    assert "PRIVATE" not in repr(signing.signer(written(tmp_path / "fine", plain), "x"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("model/../../evil.json", "which none may have"),
        ("/etc/passwd.json", "which none may have"),
        ("model/.gitattributes", "which none may have"),
        ("model/a\\b.json", "which none may have"),
        ("model/a\nb.json", "which none may have"),
        ("model/a/b/c/d/e/f.json", "which none may have"),
        ("model/%2e%2e/x.json", "which none may have"),
        ("config.json", "in none of"),
        ("code/run.json", "in none of"),
        ("model/weights.pkl", "a kind of file"),
        ("model/pytorch_model.pt", "a kind of file"),
        ("model/modeling.py", "a kind of file"),
        ("model/x.npy", "a kind of file"),
        ("model/x.joblib", "a kind of file"),
        ("model/custom_ops.so", "a kind of file"),
    ],
)
def test_names_and_kinds_that_no_version_has(path: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(contents.Foreign, match=said):
        contents.check([contents.Listed(path=path, size=1)], ("model",), None, tmp_path)


def test_sizes_are_looked_at_before_a_download(tmp_path: Path) -> None:
    files = [contents.Listed(path=f"model/{name}.json", size=5) for name in "ab"]
    assert contents.check(files, ("model",), 10, tmp_path) == 10
    with pytest.raises(contents.Foreign, match="lists 10 bytes, and it is registered with 9"):
        contents.check(files, ("model",), 9, tmp_path)
    huge = contents.Listed(path="model/model.onnx", size=contents.LARGEST + 1)
    with pytest.raises(contents.Foreign, match="none may have over"):
        contents.check([huge], ("model",), None, tmp_path)
    with pytest.raises(contents.Foreign, match="more than 2000 files"):
        contents.check(files * 1001, ("model",), None, tmp_path)
    free = shutil.disk_usage(tmp_path).free
    if free < contents.LARGEST:
        large = contents.Listed(path="model/model.onnx", size=free)
        with pytest.raises(ShrinkError, match="make room there"):
            contents.check([large], ("model",), None, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.bin", b"\x80\x04\x95abc.", "a pickle"),
        ("model.onnx", b"\x80\x02}q\x00.", "a pickle"),
        ("model.bin", b"PK\x03\x04rest", "an archive"),
        ("config.json", b"\x1f\x8brest", "an archive"),
        ("model.data", b"\x93NUMPY\x01\x00", "an archive"),
        ("model.gguf", b"PK\x03\x04", "no GGUF file"),
        ("model.safetensors", b"\x80\x02}q\x00abcdefg.", "no safetensors file"),
    ],
)
def test_what_hides_behind_a_fitting_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(contents.Foreign, match=said):
        contents.check_folder(tmp_path, ("model",))


def test_what_is_fine_though_it_begins_like_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes((0x280).to_bytes(8, "little") + b"{}")
    (tmp_path / "model" / "openvino_model.bin").write_bytes(b"\x80\x04 raw weights")
    (tmp_path / "model" / "LICENSE").write_text("free")
    contents.check_folder(tmp_path, ("model",))
    (tmp_path / "model" / "link.json").symlink_to("/etc/hosts")
    with pytest.raises(contents.Foreign, match="neither file nor folder"):
        contents.check_folder(tmp_path, ("model",))


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a..b", "", ".hidden", "a\n", "-x", "a" * 200])
def test_names_of_models_that_would_leave_their_folder(name: str) -> None:
    with pytest.raises(ShrinkError, match="model is"):
        contents.checked_name(name)
