"""Importing from a real Orthanc on loopback: killed half-way, resumed, complete, and the same as from files."""

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
import requests

from client.importing import Options, opened
from client.importing_files import find_files
from client.importing_journal import JOURNAL
from client.pacs import Access
from client.pacs_orthanc import Orthanc
from tests.client.dicom_originals import SECRETS, as_bytes, original, private_tags

pytestmark = pytest.mark.pacs

PROJECT = Path(__file__).resolve().parents[2]
BINARY, PLUGIN = "/usr/sbin/Orthanc", "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PASSWORD = "only-for-this-test"
INSTANCES = 200
QUERY = ("--query", "Modality=CT", "--query", "StudyDate=20260101-20260131")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """200 CT images of five patients in ten series, and below `others` what the query leaves out."""
    folder = tmp_path_factory.mktemp("originals")
    for number in range(INSTANCES):
        patient, series, slice_ = number // 40, number // 20, number % 20
        image = original(f"MRN-{patient}", f"1.2.3.4.{patient}", f"1.2.3.4.{patient}.{series}", slice_ + 1, size_px=64)
        (folder / f"{number:03d}.dcm").write_bytes(as_bytes(image))
    others = tmp_path_factory.mktemp("others")
    for number, changes in enumerate(({"Modality": "MR"}, {"StudyDate": "20260201"}, {"StudyDate": "20251231"})):
        image = original("MRN-9", f"1.2.3.5.{number}", f"1.2.3.5.{number}.1", **changes)
        (others / f"{number}.dcm").write_bytes(as_bytes(image))
    return folder, others


@contextmanager
def running(folder, originals, **more):
    """The address of an Orthanc that holds the originals and lets one user in."""
    if not (Path(BINARY).exists() and Path(PLUGIN).exists()):
        pytest.skip("Orthanc is not installed: make orthanc")
    port = free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"importer": PASSWORD},
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.auth = ("importer", PASSWORD)
            for _ in range(600):
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    if session.get(f"{url}/system", timeout=5).ok:
                        break
                except requests.ConnectionError:
                    time.sleep(0.1)
            for file in (*originals[0].iterdir(), *originals[1].iterdir()):
                session.post(f"{url}/instances", data=file.read_bytes(), timeout=30).raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, originals):
    with running(tmp_path_factory.mktemp("orthanc"), originals) as url:
        yield url


@pytest.fixture(scope="module")
def salt(tmp_path_factory):
    return tmp_path_factory.mktemp("secret") / "salt"


@pytest.fixture(scope="module")
def from_files(originals, salt, tmp_path_factory):
    """The same images, imported from files."""
    out = tmp_path_factory.mktemp("files") / "out"
    with opened(out, salt) as importer:
        assert importer.run(find_files([originals[0]], out), Options()).written == INSTANCES
    return copies(out)


def copies(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("*/*/*") if path.suffix == ".dcm"}


def command(kind, url, out, salt, password=PASSWORD, more=()):
    address = ("--orthanc", url) if kind == "orthanc" else ("--dicomweb", f"{url}/dicom-web")
    environment = {
        **os.environ,
        "CONSILIUM_PACS_USER": "importer",
        "CONSILIUM_PACS_PASSWORD": password,
        "PYTHONPATH": str(PROJECT),
    }
    arguments = [*address, *QUERY, "--out", str(out), "--salt", str(salt), *more]
    return [sys.executable, "-m", "cli.main", "import", *arguments], environment


def call(*arguments, **options):
    line, environment = command(*arguments, **options)
    return subprocess.run(line, env=environment, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=300)


def lines(out):
    """How many copies the journal knows."""
    path = out / JOURNAL
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


@pytest.mark.parametrize("kind", ["orthanc", "dicomweb"])
def test_killed_half_way_and_resumed_it_is_complete_and_has_nothing_twice(kind, orthanc, salt, from_files, tmp_path):
    out = tmp_path / "out"
    line, environment = command(kind, orthanc, out, salt)
    process = subprocess.Popen(line, env=environment, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while lines(out) < INSTANCES // 4 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    killed_at = lines(out)
    assert INSTANCES // 4 <= killed_at < INSTANCES, "it was done before it could be killed"
    assert copies(out).items() <= from_files.items()

    begun = time.monotonic()
    done = call(kind, orthanc, out, salt, more=("--label", "normal"))
    seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    assert f"written: {INSTANCES - killed_at}, already there: {killed_at}, refused: 0" in done.stdout
    # Byte for byte what the same images are when they come from files.
    assert copies(out) == from_files
    images = [pydicom.dcmread(io.BytesIO(content)) for content in copies(out).values()]
    assert len({image.SOPInstanceUID for image in images}) == INSTANCES
    assert len({image.SeriesInstanceUID for image in images}) == INSTANCES // 20
    assert len({image.PatientID for image in images}) == 5
    assert sum(map(private_tags, images)) == 0
    everything = b"".join([*copies(out).values(), (out / JOURNAL).read_bytes(), (out / "manifest.csv").read_bytes()])
    assert not any(secret.encode() in everything for secret in SECRETS)
    with (out / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == len(rows) == INSTANCES
    assert {row["label"] for row in rows} == {"normal"}
    print(
        f"{kind}: killed after {killed_at}, the other {INSTANCES - killed_at} in {seconds:.1f} s with the start of the command"
    )

    again = call(kind, orthanc, out, salt)
    assert f"written: 0, already there: {INSTANCES}, refused: 0" in again.stdout
    assert copies(out) == from_files


@pytest.mark.parametrize("kind", ["orthanc", "dicomweb"])
def test_labels_by_accession_number_and_study(kind, orthanc, salt, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("StudyInstanceUID,label\n1.2.3.4.1,sick\n")
    done = call(
        kind,
        orthanc,
        tmp_path / "out",
        salt,
        more=("--labels-from", str(labels), "--query", "StudyInstanceUID=1.2.3.4.1"),
    )
    assert done.returncode == 0, done.stderr
    assert "written: 40," in done.stdout
    assert "have no label" not in done.stdout
    labels.write_text("AccessionNumber,label\nACC-0815,well\n")
    done = call(
        kind,
        orthanc,
        tmp_path / "out",
        salt,
        more=("--labels-from", str(labels), "--query", "StudyInstanceUID=1.2.3.4.1"),
    )
    assert "already there: 40," in done.stdout
    assert (tmp_path / "out" / "manifest.csv").read_text().count(",well,") == 40


@pytest.mark.parametrize("kind", ["orthanc", "dicomweb"])
def test_a_wrong_password_is_said(kind, orthanc, salt, tmp_path):
    done = call(kind, orthanc, tmp_path / "out", salt, password="wrong")
    assert done.returncode == 3
    assert "lets nobody in without a valid user and password or token (401)" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_an_orthanc_is_no_dicomweb_service_at_its_root(orthanc, salt, tmp_path):
    done = call("dicomweb", f"{orthanc}/app", tmp_path / "out", salt)
    assert done.returncode == 3
    assert "does not answer as DICOMweb does" in " ".join(done.stderr.split())


def test_an_image_that_is_deleted_meanwhile_is_refused(orthanc):
    found = Orthanc(Access(orthanc, "importer", PASSWORD)).find({"Modality": "MR"})
    assert len(found) == 1
    with requests.Session() as session:
        session.auth = ("importer", PASSWORD)
        session.delete(f"{orthanc}/instances/{found[0].name.split()[-1]}", timeout=10).raise_for_status()
    assert found[0].read().reason.name == "NOT_DELIVERED"


def test_a_server_that_leaves_out_results_without_a_word_is_an_error(originals, salt, tmp_path):
    with running(tmp_path, originals, LimitFindResults=3, LimitFindInstances=5) as url:
        for kind in ("orthanc", "dicomweb"):
            done = call(kind, url, tmp_path / "out", salt)
            assert done.returncode == 3
            assert "holds more than it lists: it gives 4 results and no more" in " ".join(done.stderr.split())
        narrow = ("--query", "StudyInstanceUID=1.2.3.4.1")
        assert "written: 40," in call("orthanc", url, tmp_path / "out", salt, more=narrow).stdout
        done = call("dicomweb", url, tmp_path / "out", salt, more=narrow)
        assert "holds more than it lists: it gives 6 results" in " ".join(done.stderr.split())
