from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.records import Row, assign, part_of, parts_of, read_rows
from common.errors import DataError
from common.job import Evaluation
from common.wire import PARTS

EVALUATION = Evaluation(test_fraction=0.2, validation_fraction=0.1)


def written(folder, text, encoding="utf-8"):
    path = folder / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return path


def problems_of(folder, text):
    with pytest.raises(DataError) as caught:
        read_rows(written(folder, text))
    return str(caught.value)


def test_a_manifest_with_byte_order_mark_and_extra_columns(tmp_path):
    written(
        tmp_path,
        "age,path,label,patient_id,split\r\n40,a/1.png,normal,p1,\r\n51,/far/2.png,opacity, p2 ,Val\r\n",
        "utf-8-sig",
    )
    expected = [
        Row(tmp_path / "a/1.png", "normal", "p1", None),
        Row(Path("/far/2.png"), "opacity", "p2", "validation"),
    ]
    assert read_rows(tmp_path) == expected
    assert read_rows(tmp_path / "manifest.csv") == expected


def test_the_first_column_with_a_byte_order_mark_is_found(tmp_path):
    written(tmp_path, "path,label,patient_id\n1.png,normal,p1\n", "utf-8-sig")
    assert read_rows(tmp_path) == [Row(tmp_path / "1.png", "normal", "p1")]


def test_a_manifest_of_any_name_may_be_given(tmp_path):
    (tmp_path / "labels.csv").write_text('path,label,patient_id\n"a, b.png",normal,Ärzte-1\n', encoding="utf-8")
    assert read_rows(tmp_path / "labels.csv") == [Row(tmp_path / "a, b.png", "normal", "Ärzte-1")]


@pytest.mark.parametrize(
    ("word", "part"),
    [("train", "train"), ("val", "validation"), ("VALID", "validation"), (" test ", "test"), ("", None)],
)
def test_split_words(tmp_path, word, part):
    written(tmp_path, f"path,label,patient_id,split\n1.png,normal,p1,{word}\n")
    assert read_rows(tmp_path)[0].part == part


def test_all_problems_are_reported_together(tmp_path):
    message = problems_of(
        tmp_path,
        "path,label,patient_id,split\n"
        "1.png,normal,p1,train\n"
        "2.png,,p2,\n"
        "3.png,normal,,\n"
        "4.png,normal,p4,tset\n"
        "./1.png,normal,p5,\n"
        "6.png,normal,p1,test\n"
        "7.png,normal,p7,train,more\n"
        "8.png\n",
    )
    assert f"{tmp_path / 'manifest.csv'}: 8 problems" in message
    for sentence in (
        "line 3: 'label' is empty",
        "line 4: 'patient_id' is empty",
        "line 5: unknown split 'tset'; did you mean 'test'?; choose one of: train, validation, test, val, valid",
        "line 6: '1.png' was given in line 2 already",
        "patient 'p1' is in several parts: train (line 2), test (line 7)",
        "line 8: more cells than columns",
        "line 9: 'label' is empty",
        "line 9: 'patient_id' is empty",
    ):
        assert sentence in message


def test_missing_columns_are_all_named_with_the_nearest_ones(tmp_path):
    message = problems_of(tmp_path, "path,lable,patientid\n1.png,normal,p1\n")
    assert "2 problems" in message
    assert "column 'label' is missing; did you mean 'lable'?; the columns are: path, lable, patientid" in message
    assert "column 'patient_id' is missing; did you mean 'patientid'?" in message


def test_a_column_twice_is_an_error(tmp_path):
    assert "column 'label' is there 2 times" in problems_of(tmp_path, "path,label,label,patient_id\n1.png,a,b,p\n")


def test_semicolons_are_recognised(tmp_path):
    assert "save the file with commas" in problems_of(tmp_path, "path;label;patient_id\n1.png;normal;p1\n")


def test_at_most_ten_problems_are_shown(tmp_path):
    message = problems_of(tmp_path, "path,label,patient_id\n" + "".join(f"{i}.png,,p{i}\n" for i in range(25)))
    assert "25 problems" in message
    assert message.count("is empty") == 10
    assert message.endswith("and 15 more")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("path,label,patient_id\n1.png,Männer,p\n".encode("latin-1"), "not UTF-8 text .byte 29."),
        (b'path,label,patient_id\n"1.png,normal,p\n', "line 1: not valid CSV"),
        (b"path,label,patient_id\n", "found no images"),
        (b"", "column 'path' is missing"),
    ],
)
def test_what_is_no_manifest(tmp_path, content, complaint):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_rows(tmp_path)


def test_a_folder_per_class(tmp_path):
    for name in ("normal/1.png", "normal/deep/er/2.JPG", "opacity/3.tif", "opacity/.hidden.png", ".trash/4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("normal/notes.txt", "loose.png"):
        (tmp_path / name).touch()
    assert read_rows(tmp_path) == [
        Row(tmp_path / "normal/1.png", "normal", "1"),
        Row(tmp_path / "normal/deep/er/2.JPG", "normal", "2"),
        Row(tmp_path / "opacity/3.tif", "opacity", "3"),
    ]


def test_nothing_there_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"expected a manifest\.csv with the columns path, label, patient_id"):
        read_rows(tmp_path)
    with pytest.raises(DataError, match=r"cannot find .*absent; give a hospital's folder"):
        read_rows(tmp_path / "absent")


def test_part_of_is_the_hash_it_says():
    # printf '7\np-1' | sha256sum begins c2a84e8347b0053f, and 0xc2a84e8347b0053f / 2**64 = 0.76038.
    assert part_of(7, "p-1", Evaluation(test_fraction=0.7604, validation_fraction=0.0)) == "test"
    assert part_of(7, "p-1", Evaluation(test_fraction=0.76, validation_fraction=0.001)) == "validation"
    assert part_of(7, "p-1", Evaluation(test_fraction=0.76, validation_fraction=0.0003)) == "train"


@given(seed=st.integers(0, 2**63 - 1), patient=st.text(), test=st.floats(0, 0.45), validation=st.floats(0, 0.45))
def test_part_of_depends_on_seed_and_patient_alone(seed, patient, test, validation):
    evaluation = Evaluation(test_fraction=test, validation_fraction=validation)
    part = part_of(seed, patient, evaluation)
    assert part in PARTS
    assert part_of(seed, patient, Evaluation(**evaluation.model_dump(exclude={"select_by"}), select_by="f1")) == part
    # A patient stays in the test part when the test part grows.
    if part == "test":
        assert part_of(seed, patient, Evaluation(test_fraction=test + 0.05, validation_fraction=validation)) == "test"


@given(seed=st.integers(0, 2**63 - 1))
def test_the_fractions_hold_over_many_patients(seed):
    parts = [part_of(seed, f"patient {number}", EVALUATION) for number in range(3000)]
    # Five standard deviations of a binomial share of 3000.
    for part, share in (("test", 0.2), ("validation", 0.1), ("train", 0.7)):
        assert parts.count(part) / 3000 == pytest.approx(share, abs=5 * (share * (1 - share) / 3000) ** 0.5)


def test_a_name_that_is_not_utf8_has_a_part():
    assert part_of(0, "\udcff.png", EVALUATION) in PARTS


patients = st.sampled_from([f"p{number}" for number in range(8)])


@given(
    content=st.lists(st.tuples(patients, st.sampled_from(["normal", "opacity"])), min_size=1, max_size=40),
    explicit=st.dictionaries(patients, st.sampled_from(PARTS)),
    marked=st.data(),
)
def test_a_patient_is_in_one_part_in_any_hospital(content, explicit, marked):
    # Only some rows of a patient may say where it belongs.
    said = [explicit.get(patient) if marked.draw(st.booleans()) else None for patient, _ in content]
    rows = [
        Row(Path(f"{i}.png"), label, patient, part)
        for i, ((patient, label), part) in enumerate(zip(content, said, strict=True))
    ]
    parts = parts_of(rows, 5, EVALUATION)
    told = {row.patient_id: row.part for row in rows if row.part}
    assert parts == {patient: told.get(patient) or part_of(5, patient, EVALUATION) for patient, _ in content}
    assert parts_of(rows[::-1], 5, EVALUATION) == parts


def test_records_are_counted_by_part_and_class(job):
    rows = [
        Row(Path("c.png"), "opacity", "p1", "test"),
        Row(Path("a.png"), "normal", "p1", "test"),
        Row(Path("d.png"), "opacity", "p2", "train"),
        Row(Path("b.png"), "opacity", "p1"),
        Row(Path("e.png"), "opacity", "p3", "train"),
    ]
    records = assign(rows, job())
    assert [str(record.path) for record in records.records] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert [record.label for record in records.records] == [0, 1, 1, 1, 1]
    np.testing.assert_array_equal(records.images(2), [[0, 2], [0, 0], [1, 2]])
    np.testing.assert_array_equal(records.patients(), [2, 0, 1])
    assert records.images(2).dtype == records.patients().dtype == np.int64
    assert {record.patient_id for record in records.of("train")} == {"p2", "p3"}
    assert records.patients_with_several_labels == 1
    assert records.other_labels == {}
    assert assign(rows[::-1], job()) == records


OTHERS = [
    Row(Path("1.png"), "normal", "p1"),
    Row(Path("2.png"), "NORMAL", "p1"),
    Row(Path("3.png"), "opacty", "p2"),
    Row(Path("4.png"), "opacty", "p2"),
]


def test_unknown_labels_are_an_error_that_names_each(job):
    with pytest.raises(DataError) as caught:
        assign(OTHERS, job())
    message = str(caught.value)
    assert "no class of job 'test-job'" in message
    assert "'NORMAL' (1 image; did you mean 'normal'?)" in message
    assert "'opacty' (2 images; did you mean 'opacity'?)" in message
    assert "the classes are: normal, opacity" in message
    assert "`other_labels: skip`" in message


def test_unknown_labels_are_counted_when_skipped(job):
    records = assign(OTHERS, job(other_labels="skip"))
    assert records.other_labels == {"NORMAL": 1, "opacty": 2}
    assert [record.path.name for record in records.records] == ["1.png"]
    assert records.patients_with_several_labels == 0


def test_real_hospitals_are_read(shared, job):
    of = job(classes=["normal", "pneumonia", "covid19"])
    data = shared / "data" / "chest_xray"
    read = {name: assign(read_rows(data / name), of) for name in ("nih_clinical_center", "figure1")}
    np.testing.assert_array_equal(read["nih_clinical_center"].images(3).sum(axis=0), [499, 500, 0])
    assert read["nih_clinical_center"].patients().sum() == 682
    assert read["nih_clinical_center"].patients_with_several_labels == 21
    np.testing.assert_array_equal(read["figure1"].images(3).sum(axis=0), [3, 2, 34])
    assert all(record.path.is_file() for record in read["figure1"].records)
