"""The table of benchmarks names what is there, and the README's table is made of the JSON files."""

import json
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.bench import BENCHMARKS, PROJECT, RESULTS, arguments_of
from benchmarks.outcome import Headline, Outcome, Table, publish
from benchmarks.readme_table import BEGIN, END, read_outcomes, table_of, with_table


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_row_runs_a_file_that_is_there(name):
    row = BENCHMARKS[name]
    for command in filter(None, (row.command, row.quick)):
        script = f"{command[1].replace('.', '/')}.py" if command[0] == "-m" else command[0]
        inside = PROJECT / script.removesuffix(".py") / "__main__.py"
        assert (PROJECT / script).is_file() or inside.is_file()


def test_folders_are_filled_in():
    filled = arguments_of(("-m", "benchmarks.cache", "SHARED", "--out", "OUT"), Path("/data"), Path("/results"))
    assert filled == ["-m", "benchmarks.cache", "/data", "--out", "/results"]


def test_what_needs_data_is_left_out_without_them(tmp_path):
    assert bench._run("cache", True, None, tmp_path) == ("left out: needs --shared", 0.0)
    assert bench._run("deployment_rounds", True, tmp_path, tmp_path)[0] == "left out: takes longer"


def test_a_table_shows_three_digits_and_a_dash(capsys, tmp_path):
    table = Table("Speed", ("way", "images/s", "n"), (("one", 1234.5, 1000), ("two", 0.98765, None)))
    publish(Outcome("cache", "python x", (table,), (Headline("speed", "fast"),)), tmp_path)
    shown = capsys.readouterr().out
    assert "| one | 1,234 | 1,000 |" in shown
    assert "| two | 0.988 | – |" in shown
    content = json.loads((tmp_path / "cache.json").read_text(encoding="utf-8"))
    assert content["machine"]["cores"] >= 1
    (found,) = read_outcomes(tmp_path)
    assert "| speed | fast | `python x` |" in table_of([found])


def test_the_readme_holds_the_table_between_its_markers_once():
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="once each"):
        with_table("no markers", "new")


def test_the_readme_is_up_to_date_with_the_results():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme, table_of(read_outcomes(RESULTS))) == readme
