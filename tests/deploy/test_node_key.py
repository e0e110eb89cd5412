import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from common.errors import ConfigError
from deploy.node_key import fingerprint, make_node_key, public_path, read_public_key


def test_a_key_is_private_and_its_public_half_belongs_to_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node_key"
    printed = make_node_key(path)
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    public = read_public_key(public_path(path))
    assert public == key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert printed == fingerprint(public)


def test_the_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    printed = make_node_key(tmp_path / "node_key")
    done = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "node_key.pub"], capture_output=True, text=True, check=True, timeout=10
    )
    assert done.stdout.split()[:2] == ["384", printed]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    make_node_key(tmp_path / "node_key")
    before = (tmp_path / "node_key").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        make_node_key(tmp_path / "node_key")
    (tmp_path / "node_key").unlink()
    with pytest.raises(ConfigError, match=r"node_key\.pub is there already"):
        make_node_key(tmp_path / "node_key")
    assert before.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")


def test_a_comment_is_dropped(tmp_path: Path) -> None:
    make_node_key(tmp_path / "node_key")
    public = tmp_path / "node_key.pub"
    line = read_public_key(public)
    public.write_text(f"{line} Dr. Someone at st-marys\n")
    assert read_public_key(public) == line


def test_a_private_key_is_refused_loudly(tmp_path: Path) -> None:
    make_node_key(tmp_path / "node_key")
    with pytest.raises(ConfigError, match=r"PRIVATE key\. Never send it .* must make a new key"):
        read_public_key(tmp_path / "node_key")
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="PRIVATE"):
        read_public_key(tmp_path / "pem")


def test_keys_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    for key, kind in (
        (rsa.generate_private_key(65537, 1024), "ssh-rsa"),
        (ec.generate_private_key(ec.SECP256R1()), "ecdsa-sha2-nistp256"),
    ):
        path.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
        with pytest.raises(ConfigError, match=f"expected ecdsa-sha2-nistp384, got {kind}"):
            read_public_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"ecdsa-sha2-nistp384 AAAA", b"\xff\xfe\x00", b"ecdsa-sha2-nistp384"]
)
def test_garbage_is_not_a_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a public key in OpenSSH's form"):
        read_public_key(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.pub: No such file"):
        read_public_key(tmp_path / "absent.pub")
