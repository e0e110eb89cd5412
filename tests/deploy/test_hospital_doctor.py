"""The hospital's doctor in front of a coordinator that is a small HTTPS server on this machine."""

import http.server
import ssl
import threading
import time
from email.utils import formatdate

import pytest
import yaml

from client.approvals import Approvals
from deploy.certificates import CA, SERVER, SERVER_KEY, issue_server, make_ca
from deploy.hospital_doctor import examine
from deploy.kit import NODE_KEY, Kit, write_kit
from deploy.node_key import make_node_key
from deploy.processes import free_port


class Coordinator(http.server.BaseHTTPRequestHandler):
    skew_s = 0.0
    control = 403

    def do_GET(self):
        self.send_response_only(200 if self.path == "/health" else self.control)
        self.send_header("Date", formatdate(time.time() - self.skew_s, usegmt=True))
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_ca(folder, "chest")
    issue_server(folder, ["localhost"])
    return folder


@pytest.fixture
def port(authority):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Coordinator)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / SERVER, authority / SERVER_KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def kit(tmp_path, authority, phantoms, cache_dir):
    """A kit for a coordinator at a port; `changes` go into hospital.yaml."""

    def make(port: int, ca: bytes | None = None, host: str = "localhost", **changes):
        import importlib.metadata

        folder = tmp_path / "kit"
        own = importlib.metadata.version("consilium")
        settings = Kit(federation="chest", hospital="st-marys", host=host, port=port, flwr="1.41.0", consilium=own)
        write_kit(folder, settings, ca or (authority / CA).read_bytes())
        content = {"name": "st-marys", "data": {"folder": str(phantoms["hospital-a"])}, "device": "cpu"}
        own_folders = {"cache": str(cache_dir), "state": str(tmp_path / "state")}
        (folder / "hospital.yaml").write_text(yaml.safe_dump({**content, **own_folders, **changes}))
        make_node_key(folder / NODE_KEY)
        return folder

    return make


def found(findings, check: str, level: str) -> str:
    """What was found, and the remedy, of the one finding of a check and level."""
    [one] = [one for one in findings if (one.check, one.level) == (check, level)]
    return f"{one.what} -> {one.remedy}"


def test_a_hospital_that_could_join_has_no_errors(kit, port):
    findings = examine(kit(port))
    assert [one for one in findings if one.level == "error"] == []
    assert {"node key", "flwr", "DNS", "port", "TLS", "clock", "data"} <= {
        one.check for one in findings if one.level == "ok"
    }
    assert "40 images of" in found(findings, "data", "ok")


def test_a_folder_that_is_no_kit(tmp_path):
    [finding] = examine(tmp_path)
    assert (finding.check, finding.level) == ("kit", "error")


def test_a_missing_key(kit, port):
    folder = kit(port)
    (folder / NODE_KEY).unlink()
    assert "consilium hospital keygen" in found(examine(folder), "node key", "error")


def test_a_key_that_others_may_read(kit, port):
    folder = kit(port)
    (folder / NODE_KEY).chmod(0o644)
    assert "chmod go=" in found(examine(folder), "node key", "error")


def test_a_name_that_has_no_address(kit, port):
    findings = examine(kit(port, host="no-such-host.invalid"))
    assert "no-such-host.invalid has no address" in found(findings, "DNS", "error")
    assert not [one for one in findings if one.check in ("port", "TLS")]


def test_a_port_that_is_closed(kit):
    assert "in the firewall" in found(examine(kit(free_port())), "port", "error")


def test_another_authority_is_told_from_a_dead_coordinator(kit, port, tmp_path):
    make_ca(tmp_path / "other", "chest")
    findings = examine(kit(port, ca=(tmp_path / "other" / CA).read_bytes()))
    assert "not the coordinator of this kit" in found(findings, "TLS", "error")


@pytest.mark.parametrize(("skew_s", "level"), [(0.0, "ok"), (3.5, "warning"), (-60.0, "error"), (60.0, "error")])
def test_a_clock_that_is_off(kit, port, monkeypatch, skew_s, level):
    monkeypatch.setattr(Coordinator, "skew_s", skew_s)
    assert found(examine(kit(port)), "clock", level)


def test_a_gateway_that_lets_too_much_through(kit, port, monkeypatch):
    monkeypatch.setattr(Coordinator, "control", 200)
    assert "every hospital could start runs" in found(examine(kit(port)), "gateway", "warning")


def test_a_proxy_in_the_way(kit, port, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert "NO_PROXY=localhost" in found(examine(kit(port)), "proxies", "warning")


def test_images_that_are_not_there(kit, port, tmp_path, phantoms):
    manifest = tmp_path / "labels.csv"
    manifest.write_text("path,label,patient_id\nnowhere.png,normal,p1\n")
    assert "1 of 1 images" in found(examine(kit(port, data={"manifest": str(manifest)})), "data", "error")


def test_a_name_that_is_not_the_kit_s(kit, port):
    assert "hospital.yaml says charite" in found(examine(kit(port, name="charite")), "name", "warning")


def test_a_job_that_could_run_here(kit, port, job, tmp_path):
    folder = kit(port)
    assert "consilium hospital approve" in found(examine(folder, job=job()), "job", "warning")
    Approvals(tmp_path / "state").approve(job())
    findings = examine(folder, job=job())
    assert "squeezenet1_1" in found(findings, "weights", "ok")
    assert "training images" in found(findings, "examples", "ok")


def test_a_job_that_could_not(kit, port, job):
    few = examine(kit(port, policy={"approve": "auto", "min_examples": 500}), job=job())
    assert "policy.min_examples is 500" in found(few, "examples", "error")


def test_a_job_whose_weights_are_not_here(kit, port, job, tmp_path):
    backbone = {"name": "squeezenet1_1", "weights": {"file": "gone.safetensors", "sha256": "a" * 64}}
    findings = examine(kit(port, weights_dir=str(tmp_path), policy={"approve": "auto"}), job=job(backbone=backbone))
    assert "gone.safetensors" in found(findings, "job", "error")
