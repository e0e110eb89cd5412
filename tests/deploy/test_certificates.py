import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from common.errors import ConfigError
from deploy.certificates import chain_problem, inspect, issue_server, make_ca


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_ca(tmp_path / "certificates", "chest")
    issue_server(tmp_path / "certificates", ["fed.example.org", "192.0.2.7"])
    return tmp_path / "certificates"


def openssl(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=20)


def test_openssl_accepts_the_chain_strictly(folder: Path) -> None:
    for purpose in ("sslserver", "any"):
        done = openssl(
            "verify", "-x509_strict", "-purpose", purpose, "-CAfile", folder / "ca.crt", folder / "server.crt"
        )
        assert done.returncode == 0, done.stderr
    assert (
        openssl("verify", "-purpose", "sslclient", "-CAfile", folder / "ca.crt", folder / "server.crt").returncode != 0
    )


def handshake(folder: Path, name: str, server_folder: Path | None = None) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    where = server_folder or folder
    server.load_cert_chain(where / "server.crt", where / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(left, server_side=True).close()
        except (ssl.SSLError, OSError):
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(right, server_hostname=name).close()
    finally:
        right.close()
        thread.join(10)
        left.close()


@pytest.mark.parametrize("name", ["fed.example.org", "192.0.2.7", "localhost", "127.0.0.1", "superlink"])
def test_a_strict_client_accepts_every_name(folder: Path, name: str) -> None:
    handshake(folder, name)


def test_another_name_and_another_authority_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(folder, "other.example.org")
    make_ca(tmp_path / "other", "chest")
    issue_server(tmp_path / "other", ["fed.example.org"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(folder, "fed.example.org", tmp_path / "other")


def test_lives_and_constraints(folder: Path) -> None:
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert 3640 < inspect(folder / "ca.crt").days_left < 3651
    facts = inspect(folder / "server.crt")
    assert facts.not_after - facts.not_before <= timedelta(days=398)
    assert facts.not_before < datetime.now(UTC) - timedelta(minutes=4)
    assert set(facts.names) == {"fed.example.org", "192.0.2.7", "localhost", "127.0.0.1", "superlink"}


def test_keys_are_private_and_none_is_in_a_certificate(folder: Path) -> None:
    for name in ("ca.key", "server.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("ca.crt", "server.crt"):
        assert "PRIVATE" not in (folder / name).read_text()


def test_a_renewed_certificate_has_the_same_authority(folder: Path) -> None:
    authority, before = (folder / "ca.crt").read_bytes(), (folder / "server.crt").read_bytes()
    issue_server(folder, ["new.example.org"])
    assert (folder / "ca.crt").read_bytes() == authority
    assert (folder / "server.crt").read_bytes() != before
    assert chain_problem(folder) is None
    handshake(folder, "new.example.org")


def test_an_authority_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(ConfigError, match="never overwritten"):
        make_ca(folder, "chest")
    (folder / "ca.key").unlink()
    with pytest.raises(ConfigError, match="never overwritten"):
        make_ca(folder, "chest")


def test_what_does_not_fit_together_is_named(folder: Path, tmp_path: Path) -> None:
    assert chain_problem(folder) is None
    make_ca(tmp_path / "other", "chest")
    issue_server(tmp_path / "other", ["fed.example.org"])
    (folder / "server.key").write_bytes((tmp_path / "other" / "server.key").read_bytes())
    assert chain_problem(folder) == "server.key does not belong to server.crt"
    (folder / "server.crt").write_bytes((tmp_path / "other" / "server.crt").read_bytes())
    assert chain_problem(folder) == "server.crt was not issued by ca.crt"


def test_bad_names_and_damaged_files_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="neither a DNS name nor an IP address"):
        issue_server(folder, ["münchen.example.org"])
    (folder / "ca.key").write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.key is not a private key"):
        issue_server(folder, ["fed.example.org"])
    (folder / "server.crt").write_text("nothing")
    with pytest.raises(ConfigError, match=r"server\.crt is not a certificate"):
        inspect(folder / "server.crt")
