"""Signatures over a version: the folder that holds exactly model/ and evidence/, signed with an elliptic-curve key.

The bundle is the library model-signing's, so that its own command line verifies a version too. The library follows
what a signature says is to be ignored, and passes over names that begin with .git: here every file that lies there is
held against the signed list once more. The signed subject is the model's name, so that a version of one model cannot
be registered as one of another.
"""

import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError, manifest_of

PARTS = ("model", "evidence")
SIGNATURE = "signature/model.sig"  # within a version
LARGEST = 4_000_000  # bytes of a signature: it lists every file


class Unverified(RuntimeError):
    """A signature that does not hold; the text goes on from "version 1 of name"."""


class Key(BaseModel):
    """A public key that is trusted; `id` is the SHA-256 of its PEM, as signatures name it."""

    model_config = STRICT
    id: str
    pem: str


class Trust(BaseModel):
    """Whose signatures are believed: any of these keys may have signed."""

    model_config = STRICT
    keys: tuple[Key, ...]


class Signer(BaseModel):
    """A private key by its place; its bytes are read by the library that signs, when it signs, and by nothing else."""

    model_config = STRICT
    path: Path
    public: Key


class Seal(BaseModel):
    """What a signature that holds says: the key that signed, and SHA-256 by file."""

    model_config = STRICT
    key: str
    files: dict[str, str]


def signer(path: Path, field: str) -> Signer:
    """A private key after a look at it: PEM, P-256, not encrypted, nobody else's to read. Raises ShrinkError."""
    from cryptography.hazmat.primitives import serialization

    content = _read(path, field)
    if path.stat().st_mode & 0o007:
        raise ShrinkError(f"{field} is '{path}' but everybody here may read or write it; `chmod 600` it.")
    try:
        private = serialization.load_pem_private_key(content, None)
    except TypeError:
        raise ShrinkError(f"{field} is '{path}' but it is encrypted; give a key without a password.") from None
    except ValueError:
        raise ShrinkError(f"{field} is '{path}' but that is no private key in PEM; {MAKE}.") from None
    return Signer(path=path, public=_key(private.public_key(), path, field))


def public(path: Path, field: str) -> Key:
    """A public key (PEM, P-256) from its file. Raises ShrinkError."""
    from cryptography.hazmat.primitives import serialization

    content = _read(path, field)
    try:
        return _key(serialization.load_pem_public_key(content), path, field)
    except ValueError as error:
        if isinstance(error, ShrinkError):
            raise
        raise ShrinkError(f"{field} is '{path}' but that is no public key in PEM; {MAKE_PUBLIC}.") from None


MAKE = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes one"
MAKE_PUBLIC = "`openssl pkey -in PRIVATE -pubout` makes it of the private one"


def sign(name: str, parts: Mapping[str, Path], key: Signer, target: Path) -> Seal:
    """Sign the parts of a version (model, evidence) as the model `name`, and write the bundle to `target`.

    What was written is verified before it is called done.
    """
    from model_signing import hashing, signing

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sign.", dir=target.parent) as work:
        whole = Path(work) / name
        for part, folder in parts.items():
            shutil.copytree(folder, whole / part, copy_function=_linked)
        made = Path(work) / "model.sig"
        every = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
        config = signing.Config().use_elliptic_key_signer(private_key=key.path).set_hashing_config(every)
        config.sign(whole, made)
        seal = _verified(name, whole, made, key.public)
        made.rename(target)
    return seal


def verify(name: str, folder: Path, trust: Trust) -> Seal:
    """What the signature of a version says, once it holds for every file of its parts; raises Unverified otherwise."""
    path = folder / SIGNATURE
    if not path.is_file() or path.is_symlink():
        raise Unverified("is not signed")
    named = _named(path)
    key = next((one for one in trust.keys if one.id == named), None)
    if key is None:
        known = ", ".join(one.id[:12] for one in trust.keys)
        raise Unverified(f"is signed with the key {named[:12]}, which is not trusted (trusted: {known or 'none'})")
    return _verified(name, folder, path, key)


def _verified(name: str, folder: Path, path: Path, key: Key) -> Seal:
    from cryptography.exceptions import InvalidSignature
    from model_signing import hashing, verifying

    every = hashing.Config().set_ignored_paths(paths=[folder / Path(SIGNATURE).parent], ignore_git_paths=False)
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as pem:
        pem.write(key.pem)
        pem.flush()
        config = verifying.Config().use_elliptic_key_verifier(public_key=pem.name).set_hashing_config(every)
        try:
            config.verify(folder, path)
        except (InvalidSignature, ValueError, LookupError, TypeError, AttributeError) as error:
            if "Signature mismatch" not in str(error):
                raise Unverified("has a damaged signature") from error  # the lists are compared below, with names
    subject, files = _signed(path)
    held = {file: str(about["sha256"]) for file, about in manifest_of(folder).items() if file != SIGNATURE}
    if wrong := sorted({*files, *held} - {file for file in files if files[file] == held.get(file)}):
        raise Unverified(f"does not hold what was signed: {_differences(wrong, files, held)}")
    if subject != name:
        raise Unverified(f"was signed as a version of '{subject}'")
    return Seal(key=key.id, files=files)


def _differences(wrong: list[str], files: Mapping[str, str], held: Mapping[str, str]) -> str:
    def said(file: str) -> str:
        return f"{file} {'is missing' if file not in held else 'was added' if file not in files else 'was changed'}"

    return ", ".join(said(file) for file in wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")


def _named(path: Path) -> str:
    """The id of the key that a bundle claims to be of."""
    try:
        return str(_bundle(path)["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Unverified("has a damaged signature") from None


def _signed(path: Path) -> tuple[str, dict[str, str]]:
    """The subject's name and the files of a bundle whose signature holds."""
    try:
        statement = json.loads(base64.b64decode(_bundle(path)["dsseEnvelope"]["payload"], validate=True))
        (subject,) = statement["subject"]
        listed = {one["name"]: one for one in statement["predicate"]["resources"]}
        if any(one["algorithm"] != "sha256" for one in listed.values()):
            raise ValueError("another algorithm than sha256")
        return str(subject["name"]), {str(file): str(one["digest"]) for file, one in listed.items()}
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Unverified("has a damaged signature") from None


def _bundle(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"a signature of more than {LARGEST} bytes")
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _key(found: object, path: Path, field: str) -> Key:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name != "secp256r1":
        of = getattr(getattr(found, "curve", None), "name", "another kind")
        raise ShrinkError(f"{field} is '{path}' but its key is of {of}, not of the curve P-256; {MAKE}.")
    pem = found.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return Key(id=hashlib.sha256(pem).hexdigest(), pem=pem.decode())


def _read(path: Path, field: str) -> bytes:
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "there is no such file")
        return path.read_bytes()[:LARGEST]
    except OSError as error:
        raise ShrinkError(f"{field} is '{path}' but cannot be read ({error.strerror}); name a key's file.") from None


def _linked(source: str, target: str) -> None:
    """A hard link where that is possible: models are large, and are only read here."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
