"""Signatures of single entries: ECDSA on P-256 with SHA-256, by the key that signs versions (registry/signing.py).

What is signed is the entry's JSON in one spelling (sorted keys, no spaces) without the signature itself, behind a
line that says what it is: a signature over anything else says nothing here.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from registry.signing import Signer, Trust

KIND = b"shrink ledger entry\n"
KEY, SIGNATURE = "key", "signature"


class Keys(NamedTuple):
    """Whose signatures of entries are believed, and what signs; a place without a private key only reads."""

    trust: Trust
    signer: Signer | None = None


def sealed(content: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """An entry's content with the id of the key and the signature."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = serialization.load_pem_private_key(signer.path.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RuntimeError(f"the key in {signer.path} was replaced by one of another kind")
    named = {**content, KEY: signer.public.id}
    mark = private.sign(_signed(named), ec.ECDSA(hashes.SHA256()))
    return {**named, SIGNATURE: base64.b64encode(mark).decode("ascii")}


def holds(content: Mapping[str, Any], trust: Trust) -> bool:
    """Whether a key that is trusted signed this very content."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = next((one.pem for one in trust.keys if one.id == content.get(KEY)), None)
    if pem is None:
        return False
    public = serialization.load_pem_public_key(pem.encode("ascii"))
    try:
        mark = base64.b64decode(str(content.get(SIGNATURE)), validate=True)
        assert isinstance(public, ec.EllipticCurvePublicKey)  # signing.public takes no other
        public.verify(mark, _signed(content), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _signed(content: Mapping[str, Any]) -> bytes:
    """The bytes that a signature is over."""
    said = {name: value for name, value in content.items() if name != SIGNATURE}
    return KIND + json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
