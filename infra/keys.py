"""The key that signs what is registered: `.shrink/keys/signing.key` (0600) and `signing.pub`, made once by `shrink up`.

Both appear together or not at all: they are written into a folder aside, which is then renamed.
"""

import os
import shutil
from pathlib import Path

from registry.records import ShrinkError

KEY, PUBLIC = "signing.key", "signing.pub"


def folder(home: Path) -> Path:
    """Where the keys of a state directory lie."""
    return home / "keys"


def ensure(home: Path) -> None:
    """Make a P-256 key pair (PKCS8 and SubjectPublicKeyInfo, PEM) unless the folder is there, whatever it holds.

    A folder with a public key alone belongs to a place that only verifies. Raises ShrinkError when nothing can be
    written there.
    """
    target = folder(home)
    if target.exists():
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        for name, content, mode in zip((KEY, PUBLIC), _pair(), (0o600, 0o644), strict=True):
            with os.fdopen(os.open(part / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        part.rename(target)
    except OSError as error:
        raise ShrinkError(f"keys are missing and '{target}' cannot be written ({error.strerror}).") from None


def _pair() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    return (
        private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()),
        private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo),
    )
