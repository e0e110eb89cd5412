"""Sizes in bytes of what the messages of a session hold: all are fixed, so that the contract can name them."""

POINT_BYTES = 97
"""A public key: an uncompressed point of P-384."""
SCALAR_BYTES = 48
"""A private key."""
SEED_BYTES = 32
"""The seed of a self mask."""
SEED_SHARE_BYTES = 4 + 48
KEY_SHARE_BYTES = 4 + 64
"""A share: its number and a block for each 16 bytes of the secret, which Flower pads by 1 to 16 bytes."""
SIGNATURE_BYTES = 96
"""r and s of ECDSA on P-384, 48 bytes each, most significant byte first."""
DIGEST_BYTES = 32
CIPHERTEXT_BYTES = 292
"""Fernet's token of a `Sealed` pair of shares."""
