"""A hospital's node key: an OpenSSH key on the curve P-384, which proves to the coordinator which hospital speaks.

The private half is made at the hospital and never leaves it; the public half (`.pub`) is what the coordinator registers.
"""

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from common.errors import ConfigError

_ASK = "ask for the file that ends in .pub, which `consilium hospital keygen` made"


def public_path(path: Path) -> Path:
    """Where the public half of the private key `path` is."""
    return path.with_name(f"{path.name}.pub")


def make_node_key(path: Path) -> str:
    """Make a key at `path` (mode 0600) and its public half at `path`.pub; returns the fingerprint.

    Raises:
        ConfigError: one of the files is there already, or cannot be written.
    """
    public = public_path(path)
    for file in (path, public):
        if file.exists() or file.is_symlink():
            raise ConfigError(
                f"{file} is there already, and a node key is never overwritten: the coordinator knows the hospital by it. "
                "To change keys, move the old files away, make new ones, and send the new .pub to the coordinator"
            )
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), 0o600)
        _write_new(public, f"{text}\n".encode(), 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write the node key {path}: {error.strerror}") from error
    return fingerprint(text)


def fingerprint(public_key: str) -> str:
    """SHA256:... of a line `ecdsa-sha2-nistp384 AAAA...`, as `ssh-keygen -l` shows it; two people compare it by telephone."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def read_public_key(path: Path) -> str:
    """The public key in a file, as one line without a comment.

    Raises:
        ConfigError: it is a private key, of another kind, or no key at all.
    """
    try:
        text = path.read_bytes()[:20_000].decode("ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the public key {path}: {error.strerror}") from error
    if "PRIVATE" in text:
        raise ConfigError(
            f"{path} is a PRIVATE key. Never send it to anyone, and delete this copy. The hospital must make a new key now "
            "(move the old one away, then `consilium hospital keygen`) and send only the file that ends in .pub"
        )
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a public key in OpenSSH's form (ecdsa-sha2-nistp384 AAAA...); {_ASK}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(
            f"{path} is a key of another kind: expected ecdsa-sha2-nistp384, got {text.split()[0]}; {_ASK}"
        )
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
