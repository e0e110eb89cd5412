"""consilium hospital ledger, as a hospital's people and its data-protection officer use it."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from client.ledger import Ledger
from client.ledger_chain import LEDGER
from client.ledger_export import COLUMNS
from client.ledger_reading import read_ledger
from client.ledger_words import KINDS
from common.errors import ConfigError, LedgerError
from common.packed import REFUSAL, Packed

SECRET = "/data/patient-0815/Doe^Jane.dcm"


@pytest.fixture
def state(tmp_path, job):
    """The ledger of a hospital that took part in two jobs."""
    (tmp_path / "hospital.yaml").write_text(
        f"name: st-marys\ndata: {{folder: {tmp_path}}}\ncache: {tmp_path / 'cache'}\nstate: {tmp_path / 'state'}\n"
    )
    first, second = job(name="chest-xray"), job(name="brain-mri", seed=8)
    with Ledger(tmp_path / "state", "st-marys") as ledger:
        about = {"job": first.canonical_json()}
        ledger.record("describe", Packed({}, about), Packed({"images": np.ones((3, 2), np.int64)}, {"examples": 40}))
        for number in (1, 2):
            weight = {"weight": np.ones((2, 512), np.float32), "bias": np.ones(2, np.float32)}
            request = Packed({}, {**about, "round": number})
            ledger.record("fit", request, Packed(weight, {"loss-sum": 0.5}), masked=True, epsilon=0.25)
        request = Packed({}, {"job": second.canonical_json(), "part": "test", "path": SECRET})
        ledger.record("evaluate", request, Packed({"confusion": np.ones((1, 2, 2), np.int32)}, {"part": "test"}))
        ledger.record("own", request, Packed({}, {REFUSAL: "against-policy"}), "policy.allow_tuning lacks it")
        ledger.record("fit", Packed({}, {"job": SECRET}), Packed({}, {REFUSAL: "bad-request"}), "no known job")
    return tmp_path / "state"


@pytest.fixture
def ledger(tmp_path):
    """Runs `consilium hospital ledger ...`: exit code and output; an error is raised."""

    def run(*words) -> tuple[int, str]:
        command = ["hospital", "ledger", *map(str, words), "--file", str(tmp_path / "hospital.yaml")]
        done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.fixture
def damaged(state):
    path = state / "ledger" / LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"0.25", b"0.05"), *lines[4:]]))


def head_of(state) -> str:
    return read_ledger(state).last.text


def test_show_prints_the_newest_entries_and_the_head(ledger, state, job):
    code, out = ledger("show")
    assert code == 0
    assert f"head {head_of(state)}" in out
    for words in (
        "begun",
        "chest-xray",
        "weight float32 2×512, bias float32 2",
        "4.1 kB",
        "against-policy: policy.allow",
    ):
        assert words in out
    code, out = ledger("show", "--last", 2)
    assert ("own" in out, "evaluate" in out, "5 older entries" in out) == (True, False, True)


def test_show_of_one_job(ledger, state, job):
    entries = json.loads(ledger("show", "--job", job(name="chest-xray").job_id[:10], "--format", "json")[1])["entries"]
    assert [one["kind"] for one in entries] == ["describe", "fit", "fit"]
    assert entries == json.loads(ledger("show", "--job", "chest", "--format", "json")[1])["entries"]
    assert json.loads(ledger("show", "--job", "knee", "--format", "json")[1])["entries"] == []


def test_show_for_programs(ledger, state):
    code, out = ledger("show", "--last", 3, "--format", "json")
    found = json.loads(out)
    assert (code, found["verified"], found["problems"], found["epsilon"]) == (0, True, [], 0.5)
    assert (found["head"], [one["seq"] for one in found["entries"]]) == (head_of(state), [5, 6, 7])


def test_verify(ledger, state):
    code, out = ledger("verify")
    assert (code, "verified: 7 entries" in out, f"head {head_of(state)}" in out) == (0, True, True)
    assert ledger("verify", "--head", head_of(state))[0] == 0
    assert ledger("verify", "--head", f"3:{read_ledger(state).entries[2].hash}")[0] == 0
    code, out = ledger("verify", "--head", f"3:{'a' * 64}")
    assert (code, "changed: ledger.jsonl, line 3: entry 3 is not the one that was noted elsewhere" in out) == (1, True)
    code, out = ledger("verify", "--head", f"9:{'a' * 64}")
    assert (code, "truncated: ledger.jsonl, line 8: entry 9 was noted elsewhere, and is gone" in out) == (1, True)
    with pytest.raises(ConfigError, match="expected SEQ:HASH with 64 hex digits, as show prints it, got 'x'"):
        ledger("verify", "--head", "x")


def test_verify_says_where_a_ledger_was_changed(ledger, damaged):
    code, out = ledger("verify")
    assert code == 1
    assert out.splitlines() == [
        "changed: ledger.jsonl, line 3: was changed: its content is not what its hash says",
        "missing: ledger.jsonl, line 4: entry 4 is missing: entry 5 is here",
    ]
    assert ledger("show")[0] == 1


def test_half_a_line_is_a_note_and_no_problem(ledger, state):
    with (state / "ledger" / LEDGER).open("ab") as file:
        file.write(b'{"about":')
    code, out = ledger("verify")
    assert (code, "note: line 8 is half a line: the agent was cut off while it wrote" in out) == (0, True)


@pytest.mark.parametrize("words", [("show",), ("verify",), ("export", "--format", "csv", "--out", "x.csv")])
def test_where_there_is_no_ledger(ledger, state, words):
    for path in (state / "ledger").iterdir():
        path.unlink()
    with pytest.raises(
        LedgerError, match=r"the agent begins one when it first starts\. If it has run before, the ledger"
    ):
        ledger(*words)


@pytest.fixture
def export(ledger, tmp_path):
    def run(output_format: str) -> str:
        out = tmp_path / f"exported.{output_format}"
        code, said = ledger("export", "--format", output_format, "--out", out)
        assert code == 0
        assert "7 entries" in said
        assert out.stat().st_mode & 0o777 == 0o600
        return out.read_text(encoding="utf-8")

    return run


def test_csv_has_a_row_for_each_array(state, export):
    rows = list(csv.DictReader(io.StringIO(export("csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert [row["entry"] for row in rows] == ["1", "2", "3", "3", "4", "4", "5", "6", "7"]
    bias = rows[2]
    assert (bias["array"], bias["dtype"], bias["shape"], bias["bytes"], bias["masked"]) == (
        "bias",
        "float32",
        "2",
        "8",
        "yes",
    )
    assert float(bias["l2"]) == pytest.approx(2**0.5)
    assert re.fullmatch("[0-9a-f]{64}", bias["sha256"])
    assert (bias["job"], bias["round"], bias["epsilon"], bias["fields"]) == ("chest-xray", "1", "0.25", "loss-sum=0.5")
    assert sum(int(row["bytes"] or 0) for row in rows) == sum(entry.bytes for entry in read_ledger(state).entries)
    assert [(row["decision"], row["code"], row["count"]) for row in rows[-2:]] == [
        ("refused", "against-policy", "1"),
        ("refused", "bad-request", "1"),
    ]
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_json_has_everything(state, export):
    found = json.loads(export("json"))
    assert (found["hospital"], found["verified"], found["head"]) == ("st-marys", True, head_of(state))
    lines = (state / "ledger" / LEDGER).read_text().splitlines()
    assert found["entries"] == [json.loads(line) for line in lines]


class Page(HTMLParser):
    """The words of each table, and what the page would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tables, self.loads = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.loads += [value for name, value in attributes if name in ("src", "href") or name.startswith("on")]
        if tag == "table":
            self.rows = self.tables.setdefault(found["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_says_what_left(state, export, job):
    text = export("html")
    page = Page(text)
    assert (page.open, page.loads, "url(" in text, "@import" in text) == ([], [], False, False)
    assert '<html lang="en">' in text
    assert "prefers-color-scheme: dark" in text
    assert "<b>Verified.</b>" in text
    assert head_of(state) in text
    jobs = {row[0].split()[0]: row[1:7] for row in page.tables["jobs"][1:]}
    assert jobs == {
        "no": ["0", "–", "0 B", "0 of 0", "0", "1"],
        f"brain-mri{job(name='brain-mri', seed=8).job_id[:12]}": ["1", "–", "16 B", "0 of 1", "0", "1"],
        f"chest-xray{job(name='chest-xray').job_id[:12]}": ["3", "2", "8.3 kB", "2 of 3", "0.5", "0"],
    }
    assert {row[0]: row[1] for row in page.tables["kinds"][1:]} == {
        kind: KINDS[kind] for kind in ("describe", "evaluate", "fit", "own")
    }
    [day] = page.tables["days"][1:]
    assert day[1:] == ["4", "8.3 kB", "0.5", "2"]
    assert [row[0] for row in page.tables["largest"][1:]] == ["3", "4", "2", "5"]
    assert [row[:4] for row in page.tables["refusals"][1:]] == [
        ["against-policy", "The hospital's policy does not allow it.", "own", "1"],
        ["bad-request", "The request was not what the contract allows.", "fit", "1"],
    ]
    assert "Interruptions" not in text


@pytest.mark.parametrize("output_format", ["csv", "json", "html"])
def test_no_export_names_a_file_or_a_patient(state, export, output_format):
    text = export(output_format)
    for word in ("patient-0815", "Doe", ".dcm", "/data", "hospital.yaml", str(state)):
        assert word not in text
    assert ("policy.allow_tuning" in text) == (output_format == "json")


def test_a_page_of_a_damaged_ledger_says_so(ledger, damaged, tmp_path):
    code, out = ledger("export", "--format", "html", "--out", tmp_path / "page.html")
    assert (code, "was changed" in out) == (1, True)
    text = (tmp_path / "page.html").read_text()
    assert '<div class="box bad" role="alert"><b>The ledger is not as it was written.</b>' in text
    assert "Verified" not in text


def test_a_page_of_a_ledger_that_has_just_begun(ledger, tmp_path, state):
    for path in (state / "ledger").iterdir():
        path.unlink()
    Ledger(state, "st-marys").close()
    code, _ = ledger("export", "--format", "html", "--out", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert (code, page.tables) == (0, {})


def test_interruptions_are_on_the_page(ledger, state, tmp_path):
    with (state / "ledger" / LEDGER).open("ab") as file:
        file.write(b'{"about":')
    Ledger(state, "st-marys").close()
    ledger("export", "--format", "html", "--out", tmp_path / "page.html")
    assert "cut off while it wrote after entry 7; that answer never left" in (tmp_path / "page.html").read_text()
    assert "half line (9 bytes)" in ledger("show", "--last", 1)[1]


def test_wrong_options_list_the_choices(ledger, state, tmp_path):
    with pytest.raises(ConfigError, match="--format: expected one of csv, json, html, got 'xml'"):
        ledger("export", "--format", "xml", "--out", tmp_path / "x")
    with pytest.raises(ConfigError, match=r"--out: cannot write .*; choose another file"):
        ledger("export", "--format", "csv", "--out", tmp_path / "hospital.yaml" / "x")
    with pytest.raises(ConfigError, match="expected table or json, got 'csv'"):
        ledger("show", "--format", "csv")
