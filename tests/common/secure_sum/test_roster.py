"""The roster of a kit, and signatures of node keys."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from common.errors import ConfigError
from common.secure_sum.roster import Identity, Roster, load_node_key, parse_roster, public_line
from deploy.node_key import make_node_key, public_path
from tests.common.secure_sum.sessions import identity, node_keys, roster


def test_a_roster_of_keys_that_keygen_made(tmp_path: Path) -> None:
    text = "# our federation\n\n"
    for name in ("st-marys", "general"):
        make_node_key(tmp_path / name)
        text += f"{name} {public_path(tmp_path / name).read_text()}"
    found = parse_roster(text)
    assert set(found.keys) == {"general", "st-marys"}
    assert [line.split()[0] for line in found.text().splitlines()] == ["general", "st-marys"]
    assert parse_roster(found.text()) == found
    me = Identity("general", load_node_key(tmp_path / "general"), found)
    assert found.verifies("general", me.sign(b"statement"), b"statement")


def test_comments_of_keys_and_the_order_of_lines_change_nothing() -> None:
    lines = roster(3).text().splitlines()
    assert parse_roster("\n".join(f"{line} someone@somewhere" for line in reversed(lines))).digest == roster(3).digest
    assert parse_roster("\n".join(lines[:2])).digest != roster(3).digest


def test_rosters_that_cannot_be() -> None:
    first, second = roster(3).text().splitlines()[:2]
    other = (
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    )
    p256 = public_line(ec.generate_private_key(ec.SECP256R1()))
    for text, match in (
        (f"{first}\n{first}", "line 2: 'h00' is there twice"),
        (f"{first}\nh01 {first.partition(' ')[2]}", "two hospitals have the same key"),
        (f"{second}\nH 01 x", "line 2: expected a hospital's name"),
        (f"h01 {other}", "line 1: 'h01': expected ecdsa-sha2-nistp384"),
        (f"h01 {p256}", "another key or none .not on the curve"),
        ("h01 ecdsa-sha2-nistp384 AAAA", "expected ecdsa-sha2-nistp384"),
        ("h01", "expected ecdsa-sha2-nistp384"),
        ("h01 ssh-dss AAAAB3NzaC1kc3MAAACB", "expected ecdsa-sha2-nistp384"),
    ):
        with pytest.raises(ConfigError, match=match):
            parse_roster(text)


def test_only_the_hospitals_own_signature_of_that_statement_is_good() -> None:
    signature = identity(3, "h00").sign(b"statement")
    known = roster(3)
    assert len(signature) == 96
    assert known.verifies("h00", signature, b"statement")
    assert not known.verifies("h00", signature, b"another")
    assert not known.verifies("h01", signature, b"statement")
    assert not known.verifies("nobody", signature, b"statement")
    assert not known.verifies("h00", signature[:-1], b"statement")
    assert not known.verifies("h00", bytes(96), b"statement")
    assert not known.verifies("h00", b"\xff" * 96, b"statement")


def test_a_roster_with_another_key_or_none_for_the_hospital() -> None:
    keys = node_keys(3)
    with pytest.raises(ConfigError, match=r"no hospital 'nobody'.*it has: h00, h01, h02"):
        Identity("nobody", keys["h00"], roster(3))
    with pytest.raises(ConfigError, match="another key for 'h01'"):
        Identity("h01", keys["h00"], roster(3))
    with pytest.raises(ConfigError, match="it has: none"):
        Identity("h00", keys["h00"], Roster({}))


def test_files_that_are_no_node_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match="cannot read the node key"):
        load_node_key(path)
    make_node_key(tmp_path / "good")
    for content, match in (
        (b"nothing", "not a private key"),
        (public_path(tmp_path / "good").read_bytes(), "not the one that ends in .pub"),
        (
            ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "another kind",
        ),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "another kind",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=match):
            load_node_key(path)


def test_a_key_with_a_passphrase(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    closed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (tmp_path / "key").write_bytes(closed)
    with pytest.raises(ConfigError, match="without a passphrase"):
        load_node_key(tmp_path / "key")
