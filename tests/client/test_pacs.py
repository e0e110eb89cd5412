"""A PACS that is away, busy, lets nobody in, is none, or answers oddly. The real one is in tests/system/test_pacs.py."""

import datetime
import ipaddress
import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from client import pacs
from client.deidentify import Reason, Refused
from client.pacs import Access, access
from client.pacs_dicomweb import DicomWeb
from client.pacs_orthanc import Orthanc
from client.pacs_query import parse_query
from common.errors import ConfigError, DataError
from tests.client.dicom_originals import as_bytes, original

KINDS = {"dicomweb": DicomWeb, "orthanc": Orthanc}
QUERY = {"Modality": "CT"}
IMAGE = as_bytes(original())


@contextmanager
def served(answer, context=None):
    """A server on loopback; `answer` gets method, path with query, and headers, and returns status, content type and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, body, *cut = answer(self.command, self.path, self.headers)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + sum(cut)))
            if status in (301, 302):
                self.send_header("Location", "http://127.0.0.1:1/")
            # No thread goes on serving after the end; said, so that no client asks again on a connection that is closing.
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_POST = _any

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that hang up are meant to
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def way(url, **changes):
    return replace(Access(url, waits_s=(0.0, 0.0)), **changes)


def value(text):
    return {"Value": [text]}


def page_of(path):
    """The offset that a request asks for."""
    return int(path.partition("offset=")[2].partition("&")[0] or 0)


def small_dicomweb(method, path, headers, pages=True):
    """Two instances in one series, at most one at a time; without `pages` the offset is ignored."""
    if path.startswith("/series?"):
        answers = [{"0020000D": value("1.2.3.4.1"), "0020000E": value("1.2.3.4.1.1"), "00080050": value("A1")}]
    elif "/instances?" in path:
        answers = [{"00080018": value(f"1.2.3.4.1.1.{number}")} for number in (1, 2)]
    else:
        assert "transfer-syntax=*" in headers["Accept"]
        body = b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + IMAGE + b"\r\n--edge--\r\n"
        return 200, 'multipart/related; type="application/dicom"; boundary=edge', body
    if pages:
        answers = answers[page_of(path) :][:1]
    return 200, "application/dicom+json", json.dumps(answers).encode()


def small_orthanc(method, path, headers):
    found = {
        "/system": {"ApiVersion": 16},
        "/statistics": {"CountSeries": 1},
        "/series/s1/study": {"MainDicomTags": {"StudyInstanceUID": "1.2.3.4.1", "AccessionNumber": "A1"}},
        "/series/s1": {"MainDicomTags": {"SeriesInstanceUID": "1.2.3.4.1.1"}},
        "/series/s1/instances": [
            {"ID": f"i{n}", "MainDicomTags": {"SOPInstanceUID": f"1.2.3.4.1.1.{n}"}} for n in (1, 2)
        ],
    }
    if path.endswith("/file"):
        return 200, "application/dicom", IMAGE
    if path == "/tools/find":
        small_orthanc.asked += 1
        return 200, "application/json", json.dumps(["s1"] if small_orthanc.asked % 2 else []).encode()
    return 200, "application/json", json.dumps(found[path]).encode()


small_orthanc.asked = 0
SMALL = {"dicomweb": small_dicomweb, "orthanc": small_orthanc}


@pytest.mark.parametrize("kind", KINDS)
def test_instances_are_found_and_read(kind):
    with served(SMALL[kind]) as url:
        found = KINDS[kind](way(url)).find(QUERY)
        facts = [one.look() for one in found]
        assert [one.sop_uid for one in facts] == ["1.2.3.4.1.1.1", "1.2.3.4.1.1.2"]
        assert {(one.study_uid, one.series_uid, one.accession) for one in facts} == {("1.2.3.4.1", "1.2.3.4.1.1", "A1")}
        assert as_bytes(found[0].read()) == IMAGE


def test_a_service_that_ignores_the_offset_is_no_endless_loop():
    with served(lambda *asked: small_dicomweb(*asked, pages=False)) as url:
        assert len(DicomWeb(way(url)).find(QUERY)) == 2


def test_a_service_that_says_it_has_more_instances_than_it_lists_is_an_error():
    def answer(method, path, headers):
        status, kind, body = small_dicomweb(method, path, headers)
        return status, kind, body.replace(b'"00080050"', b'"00201209": {"Value": [3]}, "00080050"')

    with served(answer) as url, pytest.raises(DataError, match="it gives 2 results and no more"):
        DicomWeb(way(url)).find(QUERY)


def test_a_service_that_hides_series_is_an_error():
    def answer(method, path, headers):
        if path.startswith("/series?") and "Modality" not in path and page_of(path) == 0:
            return 200, "application/dicom+json", json.dumps([{"0020000E": value("1.2.3.4.9")}]).encode()
        return small_dicomweb(method, path, headers)

    with served(answer) as url, pytest.raises(DataError, match="it gives 1 results and no more"):
        DicomWeb(way(url)).find(QUERY)


def test_nothing_found_is_no_error():
    with served(lambda *_: (200, "application/json", b"")) as url:
        assert DicomWeb(way(url)).find(QUERY) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (401, b"", r"lets nobody in without a valid user and password or token \(401\)"),
        (403, b"", r"does not allow this \(403\)"),
        (404, b"", r"does not answer as (DICOMweb|Orthanc) does \(404\)"),
        (200, b"<html>welcome</html>", "not as (DICOMweb|Orthanc) does"),
        (200, b"[7]", "not as (DICOMweb|Orthanc) does"),
        (302, b"", "sends us to another address"),
        (500, b"", "answers with 500"),
        (503, b"", "is not ready: it answers with 503"),
    ],
)
def test_what_a_pacs_may_answer_instead(kind, status, content, message):
    asked = []

    def answer(method, path, headers):
        asked.append(path)
        return status, "text/html", content

    with served(answer) as url, pytest.raises(DataError, match=message) as caught:
        KINDS[kind](way(url)).find(QUERY)
    assert url in str(caught.value)
    assert caught.value.exit_code == 3
    assert len(asked) == (3 if status == 503 else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pacs_that_is_not_there(kind):
    with served(SMALL[kind]) as url:
        pass
    with pytest.raises(DataError, match="cannot be reached"):
        KINDS[kind](way(url)).find(QUERY)


def test_a_pacs_that_is_silent(monkeypatch):
    monkeypatch.setattr("client.pacs_orthanc.TIMEOUT_S", (1.0, 0.05))
    waiting = threading.Event()

    def answer(method, path, headers):
        waiting.wait(5)
        return 200, "application/json", b"{}"

    with served(answer) as url:
        try:
            with pytest.raises(DataError, match="does not answer in time"):
                Orthanc(way(url)).find(QUERY)
        finally:
            waiting.set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pacs_that_comes_back_is_waited_for(kind):
    left = [2]

    def answer(method, path, headers):
        if path.endswith(("/file", "/1.2.3.4.1.1.1")) and left[0]:
            left[0] -= 1
            # Once not ready, once cut off in the middle of the image.
            return (503, "text/plain", b"") if left[0] else (200, "application/dicom", IMAGE[:200], 500)
        return SMALL[kind](method, path, headers)

    with served(answer) as url:
        found = KINDS[kind](way(url)).find(QUERY)
        assert as_bytes(found[0].read()) == IMAGE
    with pytest.raises(DataError, match="cannot be reached"):
        found[1].read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "body", "reason"), [(404, b"", Reason.NOT_DELIVERED), (500, b"", Reason.NOT_DELIVERED)]
)
def test_one_image_that_is_not_delivered_is_refused(kind, status, body, reason):
    def answer(method, path, headers):
        return (
            (status, "text/plain", body) if path.endswith(("/file", ".1.1.1")) else SMALL[kind](method, path, headers)
        )

    with served(answer) as url:
        read = KINDS[kind](way(url)).find(QUERY)[0].read()
    assert isinstance(read, Refused)
    assert read.reason is reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "header"), [({"token": "t0"}, "Bearer t0"), ({"user": "u", "password": "p"}, "Basic dTpw")]
)
def test_credentials_are_sent(kind, given, header):
    seen = set()

    def answer(method, path, headers):
        seen.add(headers.get("Authorization"))
        return SMALL[kind](method, path, headers)

    with served(answer) as url:
        KINDS[kind](way(url, **given)).find(QUERY)
    assert seen == {header}


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pacs")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "pacs.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return file, context


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_is_checked(kind, tmp_path, monkeypatch):
    file, context = self_signed(tmp_path)
    # What the environment says about certificates does not count.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with served(SMALL[kind], context) as url:
        with pytest.raises(DataError, match=r"no secure connection: .* --ca FILE"):
            KINDS[kind](way(url)).find(QUERY)
        assert len(KINDS[kind](way(url, ca=file)).find(QUERY)) == 2
        with pytest.raises(DataError, match="no secure connection"):
            KINDS[kind](way(url.replace("127.0.0.1", "localhost"), ca=file)).find(QUERY)
    with served(SMALL[kind]) as url, pytest.raises(DataError, match="no secure connection"):
        KINDS[kind](way(url.replace("http:", "https:"), ca=file)).find(QUERY)


def test_where_name_and_password_come_from(tmp_path):
    file = tmp_path / "pacs.yaml"
    file.write_text("user: jo\npassword: secret\n")
    file.chmod(0o600)
    found = access("https://pacs:8042/", file, None, False, {pacs.TOKEN: "ignored"})
    assert (found.url, found.user, found.password, found.token) == ("https://pacs:8042", "jo", "secret", "")
    assert "secret" not in repr(found)
    assert access("https://pacs", None, None, False, {pacs.TOKEN: "t"}).token == "t"
    assert access("http://localhost:8042", None, None, False, {}).user == ""
    assert access("http://pacs:8042", None, None, True, {}).url == "http://pacs:8042"
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        access("https://pacs", file, None, False, {})
    file.chmod(0o600)
    for text in ("user: jo\n", "user: jo\npassword: secret\ntoken: t\n", "secret: x\n", "user: jo\npassword: 4711\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="expected the keys user and password, or token") as caught:
            access("https://pacs", file, None, False, {})
        assert "secret" not in str(caught.value)
        assert "4711" not in str(caught.value)
    with pytest.raises(ConfigError, match="either user and password"):
        access("https://pacs", None, None, False, {pacs.USER: "jo"})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pacs:8042", "is no address of a PACS"),
        ("ftp://pacs", "is no address of a PACS"),
        ("https://jo:secret@pacs", "other users of this machine can see it"),
        ("https://pacs/dicom-web?token=secret", "other users of this machine can see it"),
        ("http://pacs:8042", "is not encrypted"),
    ],
)
def test_addresses_that_are_not_used(url, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        access(url, None, None, False, {})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"--ca .* is not there"):
        access("https://pacs", None, tmp_path / "none.pem", False, {})


def test_queries():
    assert parse_query(["Modality=CT", "StudyDescription=a = b"]) == {"Modality": "CT", "StudyDescription": "a = b"}
    for items, message in (
        ([], "say what with --query"),
        (["Modality"], "expected KEY=VALUE"),
        (["Modality="], "expected KEY=VALUE"),
        (["Modalty=CT"], "did you mean 'Modality'"),
        (["Modality=CT", "Modality=MR"], "given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_query(items)
