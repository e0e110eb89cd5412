import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from deploy import checks
from deploy.certificates import issue_server, make_ca
from deploy.doctor import examine
from deploy.federation import Federation, save, take_key
from deploy.findings import Finding, exit_code, print_findings, to_json
from deploy.node_key import make_node_key

DEMO = Path(__file__).resolve().parent.parent.parent / "configs" / "demo.yaml"


def levels(findings: list[Finding]) -> dict[str, str]:
    return {one.check: one.level for one in findings}


def only(findings: list[Finding], check: str) -> Finding:
    found = [one for one in findings if one.check == check and one.level != "ok"]
    assert len(found) == 1, found
    return found[0]


def test_a_new_federation_has_no_errors(federation: Federation, nginx: str) -> None:
    found = examine(federation)
    assert exit_code(found) == 0, found
    assert levels(found)["coordinator"] == "warning"
    assert levels(found)["st-marys"] == "warning"
    assert levels(found)["certificate"] == levels(found)["nginx"] == levels(found)["DNS"] == "ok"
    assert all(one.remedy for one in found if one.level != "ok")


def test_keys_others_may_read_are_found(federation: Federation) -> None:
    (federation.certificates / "server.key").chmod(0o644)
    finding = only(examine(federation), "permissions")
    assert finding.level == "error"
    assert finding.remedy.startswith("chmod go= ")


def test_a_certificate_of_another_authority_is_found(federation: Federation, tmp_path: Path) -> None:
    make_ca(tmp_path / "other", "x")
    issue_server(tmp_path / "other", ["localhost"])
    for name in ("server.crt", "server.key"):
        (federation.certificates / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert only(examine(federation), "certificate").what == "server.crt was not issued by ca.crt"


def test_an_old_certificate_and_a_lacking_name_are_found(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days, level in ((20, "warning"), (5, "error"), (-1, "error")):
        monkeypatch.setattr("deploy.certificates.CertificateFacts.days_left", days)
        assert only(examine(federation), "certificate").level == level
    monkeypatch.undo()
    moved = Federation(federation.folder, federation.settings.model_copy(update={"host": "absent.invalid"}))
    found = examine(moved)
    assert only(found, "certificate").what == "it lacks absent.invalid"
    assert only(found, "DNS").level == "error"


def test_a_missing_nginx_is_an_error(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("deploy.gateway._PLACES", ())
    assert only(examine(federation), "nginx").remedy == "make nginx"


def test_a_changed_key_is_found(federation: Federation, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_node_key(tmp_path / name)
    federation = take_key(federation, "st-marys", tmp_path / "one.pub")
    assert only(examine(federation), "st-marys").what == "its key is not registered"
    federation.key("st-marys").write_bytes((tmp_path / "two.pub").read_bytes())
    assert "is not the key SHA256:" in only(examine(federation), "st-marys").what
    federation.key("st-marys").unlink()
    assert only(examine(federation), "st-marys").level == "error"


def test_a_job_that_could_not_run_is_found(federation: Federation, tmp_path: Path) -> None:
    assert "needs 2 hospitals, 0 have sent keys" in only(examine(federation, DEMO), "job").what
    for name in ("st-marys", "charite"):
        make_node_key(tmp_path / name)
        federation = take_key(federation, name, tmp_path / f"{name}.pub")
    assert levels(examine(federation, DEMO))["job"] == "ok"
    (tmp_path / "bad.yaml").write_text("name: x\n")
    assert only(examine(federation, tmp_path / "bad.yaml"), "job").level == "error"


def test_damaged_files_end_nothing(federation: Federation) -> None:
    (federation.certificates / "server.crt").write_text("nothing")
    found = examine(federation)
    assert exit_code(found) == 1
    assert {"disk", "DNS", "nginx", "st-marys"} <= set(levels(found))


def test_a_federation_without_hospitals_is_told(federation: Federation) -> None:
    alone = save(federation.folder, federation.settings.model_copy(update={"hospitals": {}}))
    assert only(examine(alone), "hospitals").what == "none"


def test_versions_disk_and_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.flower_version().level == "ok"
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.42.0")
    assert checks.flower_version().level == "error"
    for free, level in ((int(1e11), "ok"), (int(2e9), "warning"), (int(1e8), "error")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: Usage(free))
        assert checks.disk(tmp_path).level == level
    assert checks.clock(tmp_path).level == "ok"
    assert checks.clock(tmp_path, not_before=4e9).level == "error"
    assert checks.clock(tmp_path / "absent").level == "error"
    assert not list(tmp_path.iterdir())


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_proxies_that_catch_a_host() -> None:
    assert checks.proxies(["127.0.0.1"], {}).level == "ok"
    proxy = {"HTTPS_PROXY": "http://proxy:3128"}
    finding = checks.proxies(["127.0.0.1", "fed.example.org"], {**proxy, "no_proxy": "127.0.0.1"})
    assert (finding.level, finding.remedy.split("=")[-1]) == ("warning", "fed.example.org")
    for spared in ("*", "example.org", ".example.org", "x, fed.example.org"):
        assert checks.proxies(["fed.example.org"], {**proxy, "NO_PROXY": spared}).level == "ok"
    assert checks.proxies(["a"], {"ALL_PROXY": "socks5://proxy"}).level == "warning"


def test_findings_are_told_to_people_and_programs() -> None:
    found = [Finding("a", "ok", "[fine]"), Finding("b", "warning", "soon", "do x"), Finding("c", "error", "no", "do y")]
    text = StringIO()
    print_findings(found, Console(file=text, width=80))
    assert "[fine]" in text.getvalue()
    assert "→ do y" in text.getvalue()
    assert text.getvalue().rstrip().endswith("1 error, 1 warning")
    assert json.loads(to_json(found))[2] == {"check": "c", "level": "error", "what": "no", "remedy": "do y"}
    assert exit_code(found) == 1
    assert exit_code(found[:2]) == 0
