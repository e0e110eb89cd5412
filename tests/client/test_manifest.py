from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.manifest import PROBLEMS_SHOWN, SPLIT_WORDS, Row, read_manifest, shortened
from common.errors import DataError
from common.wire import PARTS

HEADER = "path,label,patient_id\n"


def written(folder, text, encoding="utf-8"):
    path = folder / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return path


def problems_of(folder, text):
    """The lines of the message after the first, which counts them."""
    path = written(folder, text)
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    first, *problems = str(caught.value).splitlines()
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    assert first == f"{path}: {count}:"
    return [problem.removeprefix("  - ") for problem in problems]


def test_a_byte_order_mark_extra_columns_and_both_kinds_of_paths(tmp_path):
    text = "age,path,label,patient_id,split\r\n40,a/1.png,normal,p1,\r\n51,/far/2.png,opacity, p2 ,Val\r\n"
    assert read_manifest(written(tmp_path, text, "utf-8-sig")) == [
        Row(tmp_path / "a/1.png", "normal", "p1", None),
        Row(Path("/far/2.png"), "opacity", "p2", "validation"),
    ]


def test_the_first_column_after_a_byte_order_mark_is_found(tmp_path):
    path = written(tmp_path, f"{HEADER}1.png,normal,p1\n", "utf-8-sig")
    assert read_manifest(path) == [Row(tmp_path / "1.png", "normal", "p1")]


def test_quoted_cells_hold_commas_quotes_and_line_ends(tmp_path):
    text = HEADER + '"a, b.png",normal,Ärzte-1\n"2.png","the ""odd"" one","p\r\n2"\n'
    assert read_manifest(written(tmp_path, text)) == [
        Row(tmp_path / "a, b.png", "normal", "Ärzte-1"),
        Row(tmp_path / "2.png", 'the "odd" one', "p\r\n2"),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_and_blank_lines(tmp_path, line_end):
    text = (HEADER + "1.png,normal,p1\n\n2.png,opacity,p2").replace("\n", line_end)
    assert [row.path.name for row in read_manifest(written(tmp_path, text))] == ["1.png", "2.png"]


def test_capitals_in_column_names_do_not_matter(tmp_path):
    # A column Split that were passed over would put test patients into the training part without a word.
    path = written(tmp_path, "Path, Label ,Patient_ID,Split\n1.png,Normal,P1,test\n")
    assert read_manifest(path) == [Row(tmp_path / "1.png", "Normal", "P1", "test")]


@pytest.mark.parametrize(
    ("word", "part"),
    [("train", "train"), ("val", "validation"), ("VALID", "validation"), (" test ", "test"), ("", None)],
)
def test_split_words(tmp_path, word, part):
    path = written(tmp_path, f"path,label,patient_id,split\n1.png,normal,p1,{word}\n")
    assert read_manifest(path)[0].part == part
    assert set(SPLIT_WORDS.values()) == set(PARTS)


def test_all_problems_are_reported_together(tmp_path):
    found = problems_of(
        tmp_path,
        "path,label,patient_id,split\n"
        "1.png,normal,p1,train\n"
        "2.png,,p2,\n"
        "3.png,normal,  ,\n"
        "4.png,normal,p4,tset\n"
        "./1.png,normal,p5,\n"
        "6.png,normal,p1,test\n"
        "7.png,normal,p7,train,more\n"
        "8.png\n",
    )
    assert found == [
        "line 3: 'label' is empty",
        "line 4: 'patient_id' is empty",
        "line 5: unknown split 'tset'; did you mean 'test'?; choose one of: train, validation, test, val, valid",
        "line 8: more cells than columns; put a text that holds a comma into double quotes",
        "line 9: 'label' is empty",
        "line 9: 'patient_id' is empty",
        "line 6: '1.png' was given in line 2 already; keep one",
        "patient 'p1' is in several parts: train (line 2), test (line 7); put all rows of a patient into one",
    ]


def test_line_numbers_count_blank_lines(tmp_path):
    assert problems_of(tmp_path, f"{HEADER}\n1.png,normal,p1\n\n\n2.png,,p2\n") == ["line 6: 'label' is empty"]


def test_rows_without_a_path_are_not_taken_for_the_same_path(tmp_path):
    expected = ["line 2: 'path' is empty", "line 3: 'path' is empty"]
    assert problems_of(tmp_path, f"{HEADER},normal,p1\n,normal,p2\n") == expected


def test_the_same_path_is_recognised_however_it_is_written(tmp_path):
    rows = f"a/1.png,normal,p1\na/../a//1.png,normal,p1\n{tmp_path}/a/1.png,normal,p1\n"
    found = problems_of(tmp_path, HEADER + rows)
    assert found == [f"line {line}: '1.png' was given in line 2 already; keep one" for line in (3, 4)]


def test_two_words_for_one_part_do_not_divide_a_patient(tmp_path):
    text = "path,label,patient_id,split\n1.png,a,p1,val\n2.png,a,p1,validation\n3.png,a,p1,\n4.png,a,p2,test\n"
    assert [row.part for row in read_manifest(written(tmp_path, text))] == ["validation", "validation", None, "test"]


def test_missing_columns_are_all_named_with_the_nearest_ones(tmp_path):
    assert problems_of(tmp_path, "path,lable,patientid\n1.png,,\n") == [
        "column 'label' is missing; did you mean 'lable'?; the columns are: path, lable, patientid",
        "column 'patient_id' is missing; did you mean 'patientid'?; the columns are: path, lable, patientid",
    ]


def test_a_column_of_its_own_is_not_offered_for_another(tmp_path):
    (found,) = problems_of(tmp_path, "path,label\n1.png,normal\n")
    assert found == "column 'patient_id' is missing; the columns are: path, label"


@pytest.mark.parametrize("column", ["label", "split"])
def test_a_column_twice_is_an_error(tmp_path, column):
    text = f"path,label,patient_id,split,{column}\n1.png,a,p,test,test\n"
    assert problems_of(tmp_path, text) == [f"column '{column}' is there 2 times; keep one"]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_recognised_and_nothing_else_is_said(tmp_path, mark):
    text = f"{HEADER}1.png,normal,p1\n".replace(",", mark)
    expected = ["the columns are separated by semicolons or tabs; save the file with commas"]
    assert problems_of(tmp_path, text) == expected


def test_at_most_ten_problems_are_shown(tmp_path):
    with pytest.raises(DataError) as caught:
        read_manifest(written(tmp_path, HEADER + "".join(f"{i}.png,,p{i}\n" for i in range(25))))
    lines = str(caught.value).splitlines()
    assert "25 problems" in lines[0]
    assert lines[1:] == [*(f"  - line {line}: 'label' is empty" for line in range(2, 12)), "  - and 15 more"]


@given(st.lists(st.text(max_size=3), max_size=30))
def test_shortening_keeps_the_first_and_counts_the_rest(items):
    short = shortened(items)
    assert short[:PROBLEMS_SHOWN] == items[:PROBLEMS_SHOWN]
    assert short[PROBLEMS_SHOWN:] == ([f"and {len(items) - 10} more"] if len(items) > 10 else [])


@pytest.mark.parametrize("rows_before", [0, 5000])
def test_text_that_is_not_utf8_is_named_by_line(tmp_path, rows_before):
    # The second file is longer than the pieces in which a text file is read.
    path = tmp_path / "manifest.csv"
    good = "".join(f"{number}.png,normal,p{number}\n" for number in range(rows_before))
    path.write_bytes((HEADER + good).encode() + "x.png,Männer,p\n".encode("latin-1"))
    with pytest.raises(DataError, match=f"csv, line {rows_before + 2}: not UTF-8 text; save it as CSV UTF-8"):
        read_manifest(path)


@pytest.mark.parametrize("bad", ['"3.png,normal,p3\n4.png,normal,p4\n', '"3"x.png,normal,p3\n4.png,normal,p4\n'])
def test_a_broken_quotation_is_named_by_the_line_where_its_row_begins(tmp_path, bad):
    with pytest.raises(DataError, match=r"manifest\.csv, line 4: not valid CSV \(.*\); save it as CSV UTF-8"):
        read_manifest(written(tmp_path, f"{HEADER}1.png,normal,p1\n2.png,normal,p2\n{bad}"))


def test_an_empty_file_lacks_all_columns_and_a_header_alone_has_no_rows(tmp_path):
    assert problems_of(tmp_path, "") == [
        f"column '{column}' is missing; the columns are: none" for column in ("path", "label", "patient_id")
    ]
    assert read_manifest(written(tmp_path, HEADER)) == []


def test_a_manifest_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(DataError, match=rf"cannot read {path}: .*; give the path of a CSV file"):
            read_manifest(path)
