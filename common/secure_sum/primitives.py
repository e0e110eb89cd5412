"""Shamir's shares, key agreement and encryption, by Flower's modules on top of pycryptodome and cryptography.

The one file of this package that imports flwr. Source: Shamir 1979, How to
Share a Secret, CACM 22(11), over GF(2^128) in blocks of 16 bytes; Fernet: AES-128-CBC with HMAC-SHA256.
"""

from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key

from common.secure_sum.sizes import SCALAR_BYTES

CURVE = ec.SECP384R1()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new key on P-384."""
    return ec.generate_private_key(CURVE)


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half (97 bytes)."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def scalar_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private half (48 bytes)."""
    return key.private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")


def key_of(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of a private half.

    Raises:
        ValueError: it is none.
    """
    return ec.derive_private_key(int.from_bytes(scalar, "big"), CURVE)


def is_point(point: bytes) -> bool:
    """Whether bytes are a public key."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVE, point)
    except ValueError:
        return False
    return True


def agreed_key(own: ec.EllipticCurvePrivateKey, point: bytes) -> bytes:
    """The key (44 bytes of base64) that two hospitals have in common, each from its own private and the other's public half.

    Raises:
        ValueError: the bytes are no point of the curve.
    """
    return generate_shared_key(own, ec.EllipticCurvePublicKey.from_encoded_point(CURVE, point))


def sealed(key: bytes, plain: bytes) -> bytes:
    """Encrypted and authenticated under a key of `agreed_key`."""
    return encrypt(key, plain)


def opened(key: bytes, token: bytes) -> bytes:
    """What `sealed` closed.

    Raises:
        ValueError: it was sealed under another key, or changed.
    """
    try:
        return decrypt(key, token)
    except InvalidToken as error:
        raise ValueError("sealed under another key, or changed") from error


def shares_of(secret: bytes, threshold: int, hospitals: int) -> list[bytes]:
    """A share for each hospital; threshold of them give the secret, fewer say nothing about it."""
    return create_shares(secret, threshold, hospitals)


def secret_of(shares: list[bytes]) -> bytes:
    """The secret, from exactly threshold shares of different hospitals; anything else, if the shares are not of one secret.

    Raises:
        ValueError: they cannot be shares of one secret.
    """
    return combine_shares(shares)
