"""Keys and signatures of tests: real ones, made by what `shrink up` makes them with."""

from pathlib import Path

from infra import keys
from registry import signing
from registry.signing import Signer, Trust


def key(home: Path) -> Signer:
    """The key of a state directory, made where there is none."""
    home.mkdir(parents=True, exist_ok=True)
    keys.ensure(home)
    return signing.signer(keys.folder(home) / keys.KEY, "key")


def trust(*homes: Path) -> Trust:
    """Trust in the keys of these state directories."""
    return Trust(keys=tuple(key(home).public for home in homes))


def sealed(name: str, model: Path, evidence: Path | None, home: Path) -> Path:
    """The folder with the signature over a version, signed with a state directory's key; made beside the model."""
    folder = model.with_name(f"{model.name}-signature")
    parts = {"model": model} | ({"evidence": evidence} if evidence is not None else {})
    signing.sign(name, parts, key(home), folder / "model.sig")
    return folder
