"""The roster: which hospitals there are and their node keys. A hospital has it in its kit, not from messages.

A line a hospital, as the public halves of the node keys are: `st-marys ecdsa-sha2-nistp384 AAAA...`
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from common.errors import ConfigError
from common.secure_sum.sizes import SIGNATURE_BYTES

PrivateKey = ec.EllipticCurvePrivateKey
_HALF = SIGNATURE_BYTES // 2
_ALGORITHM = ec.ECDSA(hashes.SHA384())
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Roster:
    """keys: the public node key of each hospital by its name, as one line `ecdsa-sha2-nistp384 AAAA...`."""

    keys: Mapping[str, str]

    def text(self) -> str:
        """As a file, a line a hospital, in the order of the names."""
        return "".join(f"{name} {key}\n" for name, key in sorted(self.keys.items()))

    @property
    def digest(self) -> str:
        """sha256 (64 hex digits) of the text; two hospitals with the same digest know the same hospitals."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def verifies(self, name: str, signature: bytes, statement: bytes) -> bool:
        """Whether a hospital of the roster has signed a statement."""
        if name not in self.keys or len(signature) != SIGNATURE_BYTES:
            return False
        key = _public_key(self.keys[name])
        r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
        try:
            key.verify(encode_dss_signature(r, s), statement, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Identity:
    """Who a hospital is: its name, its private node key, and the roster from its kit."""

    name: str
    key: PrivateKey
    roster: Roster

    def __post_init__(self) -> None:
        """Raises ConfigError if the roster does not have this hospital with this key."""
        if self.name not in self.roster.keys:
            raise ConfigError(
                f"the roster has no hospital '{self.name}', so no other hospital would believe it; it has: "
                f"{', '.join(sorted(self.roster.keys)) or 'none'}. Ask the coordinator for a new kit"
            )
        if self.roster.keys[self.name] != public_line(self.key):
            raise ConfigError(
                f"the roster has another key for '{self.name}' than this hospital's node key. If the key was changed, all "
                "hospitals need the new roster; if it was not, someone has changed the roster: ask the coordinator"
            )

    def sign(self, statement: bytes) -> bytes:
        """The hospital's signature (96 bytes) of a statement."""
        r, s = decode_dss_signature(self.key.sign(statement, _ALGORITHM))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def parse_roster(text: str) -> Roster:
    """The roster in a file of the kit; empty lines and lines that begin with # are passed over.

    Raises:
        ConfigError: a line is not a name and a P-384 key, or a name or a key is there twice.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, key = line.strip().partition(" ")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"roster, line {number}: expected a hospital's name and its public key, got another line")
        if name in keys:
            raise ConfigError(f"roster, line {number}: '{name}' is there twice; each hospital has one key")
        try:
            keys[name] = _public_key(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        except ValueError as error:
            raise ConfigError(
                f"roster, line {number}: '{name}': expected ecdsa-sha2-nistp384 AAAA..., got another key or none ({error})"
            ) from error
    if len(set(keys.values())) < len(keys):
        raise ConfigError(
            "roster: two hospitals have the same key, so one could speak for the other; each makes its own"
        )
    return Roster(keys)


def load_node_key(path: Path) -> PrivateKey:
    """A hospital's private node key, as `consilium hospital keygen` made it.

    Raises:
        ConfigError: it cannot be read, has a passphrase, or is of another kind.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"cannot read the node key {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a private key in OpenSSH's form without a passphrase; name the file that "
            "`consilium hospital keygen` made, not the one that ends in .pub"
        ) from error
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{path} is a key of another kind: expected ecdsa-sha2-nistp384")
    return key


def public_line(key: PrivateKey) -> str:
    """The public half of a key as one line, as it is in a roster."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _public_key(line: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_ssh_public_key(line.encode())
    except UnsupportedAlgorithm as error:
        raise ValueError("unsupported algorithm") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("not on the curve P-384")
    return key
