"""The coordinator's own certificate authority and the certificate of its gateway and its SuperLink.

ca.key      signs certificates and nothing else; keep a copy offline
ca.crt      in every hospital's kit; valid for ten years
server.key  of the gateway and the SuperLink
server.crt  valid for at most 398 days; a renewed one is signed by the same authority, so kits stay valid
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.artifact import write_atomically
from common.errors import ConfigError

CA_KEY, CA, SERVER_KEY, SERVER = "ca.key", "ca.crt", "server.key", "server.crt"
ALWAYS = ("localhost", "127.0.0.1", "superlink")
"""Names that every server certificate has: the gateway reaches the SuperLink by them, `superlink` between containers."""
_CA_LIFE, _SERVER_LIFE = timedelta(days=3650), timedelta(days=398)
_CLOCK_SKEW = timedelta(minutes=5)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class CertificateFacts:
    """What a person wants to know of a certificate; `names` are DNS names and addresses."""

    subject: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]

    @property
    def days_left(self) -> float:
        """Days until it is no longer valid; negative if it is not any more."""
        return (self.not_after - datetime.now(UTC)) / timedelta(days=1)


def make_ca(folder: Path, federation: str) -> None:
    """Make the certificate authority of a federation in `folder`.

    Raises:
        ConfigError: there is one already.
    """
    for name in (CA_KEY, CA):
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} is there already, and an authority is never overwritten: every hospital's kit has its "
                "certificate. To begin anew, move the folder away and give every hospital its new kit"
            )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"Consilium federation {federation}")
    certificate = (
        _builder(subject, subject, key.public_key(), _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, SHA384())
    )
    write_atomically(folder / CA_KEY, _pem(key), 0o600)
    write_atomically(folder / CA, certificate.public_bytes(Encoding.PEM))


def issue_server(folder: Path, names: Sequence[str]) -> CertificateFacts:
    """Issue a server certificate, or renew it, for DNS names and IP addresses besides those in `ALWAYS`.

    Raises:
        ConfigError: a name is not one, or the authority is missing or damaged.
    """
    key, authority = _load_key(folder / CA_KEY), _load(folder / CA)
    alternatives = [_alternative(name) for name in dict.fromkeys((*names, *ALWAYS))]
    server_key = ec.generate_private_key(ec.SECP384R1())
    issuer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_name("Consilium coordinator"), authority.subject, server_key.public_key(), _SERVER_LIFE, authority)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        .sign(key, SHA384())
    )
    write_atomically(folder / SERVER_KEY, _pem(server_key), 0o600)
    write_atomically(folder / SERVER, certificate.public_bytes(Encoding.PEM))
    return inspect(folder / SERVER)


def inspect(path: Path) -> CertificateFacts:
    """The facts of the certificate in a file.

    Raises:
        ConfigError: there is none.
    """
    certificate = _load(path)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = x509.SubjectAlternativeName([])
    names = (*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress)))
    return CertificateFacts(
        certificate.subject.rfc4514_string(), certificate.not_valid_before_utc, certificate.not_valid_after_utc, names
    )


def chain_problem(folder: Path) -> str | None:
    """What does not fit together of authority, certificate and keys; None if all does.

    Raises:
        ConfigError: a file is missing or is not what it should be.
    """
    authority, server = _load(folder / CA), _load(folder / SERVER)
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return f"{SERVER} was not issued by {CA}"
    for key, certificate in ((SERVER_KEY, server), (CA_KEY, authority)):
        if _public(_load_key(folder / key).public_key()) != _public(certificate.public_key()):
            return f"{key} does not belong to {CA if certificate is authority else SERVER}"
    return None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    life: timedelta,
    authority: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - _CLOCK_SKEW
    end = min(start + life, authority.not_valid_after_utc) if authority else start + life
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*usages: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in usages for usage in _USAGES})


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(
            f"'{name}' is neither a DNS name nor an IP address; write international names in punycode"
        ) from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(key: object) -> bytes:
    return (
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if isinstance(key, ec.EllipticCurvePublicKey)
        else b""
    )


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate in PEM form") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"cannot read the private key {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a private key in PEM form without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is a private key of another kind; expected one on an elliptic curve")
    return key
