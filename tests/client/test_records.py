from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.records import Row, assign, manifest_of, part_of, parts_of, read_rows
from common.errors import DataError
from common.job import Evaluation, parse_job
from common.wire import PARTS

EVALUATION = Evaluation(test_fraction=0.2, validation_fraction=0.1)


def test_a_folder_with_a_manifest_and_the_manifest_itself_say_the_same(tmp_path):
    rows = "path,label,patient_id,split\na/1.png,normal,p1,\n/far/2.png,opacity,p2,val\n"
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8")
    (tmp_path / "labels.csv").write_text(rows.replace("normal", "opacity"), encoding="utf-8")
    expected = [
        Row(tmp_path / "a/1.png", "normal", "p1", None),
        Row(Path("/far/2.png"), "opacity", "p2", "validation"),
    ]
    assert read_rows(tmp_path) == read_rows(tmp_path / "manifest.csv") == expected
    assert [row.label for row in read_rows(tmp_path / "labels.csv")] == ["opacity", "opacity"]
    assert manifest_of(tmp_path / "labels.csv") == tmp_path / "labels.csv"
    assert manifest_of(tmp_path) == tmp_path / "manifest.csv"


def test_a_manifest_counts_more_than_sub_folders(tmp_path):
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "2.png").touch()
    assert manifest_of(tmp_path) is None
    assert [row.label for row in read_rows(tmp_path)] == ["normal"]
    (tmp_path / "manifest.csv").write_text("path,label,patient_id\n1.png,opacity,p1\n", encoding="utf-8")
    assert [row.label for row in read_rows(tmp_path)] == ["opacity"]


def test_a_manifest_without_rows_holds_no_images(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,label,patient_id\n", encoding="utf-8")
    with pytest.raises(DataError, match="found no images"):
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


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.1), (0.5, 0.0), (0.0, 0.3)])
def test_the_fractions_hold_over_20000_patients(seed, test, validation):
    evaluation = Evaluation(test_fraction=test, validation_fraction=validation)
    parts = Counter(part_of(seed, f"patient {number}", evaluation) for number in range(20_000))
    # Four standard deviations of a binomial share: under 0.015.
    for part, share in (("test", test), ("validation", validation), ("train", 1 - test - validation)):
        assert parts[part] / 20_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)


@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=2, unique=True))
def test_another_seed_gives_an_unrelated_split(seeds):
    evaluation = Evaluation(test_fraction=0.5, validation_fraction=0.0)
    one, other = ([part_of(seed, f"p{number}", evaluation) for number in range(1000)] for seed in seeds)
    agreeing = sum(a == b for a, b in zip(one, other, strict=True))
    # Independent coins agree in half of 1000 throws; seven standard deviations either way.
    assert 390 < agreeing < 610


def test_a_name_that_is_not_utf8_has_a_part():
    assert part_of(0, "\udcff.png", EVALUATION) in PARTS


@pytest.fixture(scope="module")
def skipping():
    """A job that passes over labels other than normal and opacity."""
    return parse_job(
        {
            "name": "skipping",
            "classes": ["normal", "opacity"],
            "other_labels": "skip",
            "backbone": {"name": "squeezenet1_1", "weights": "random"},
            "seed": 3,
        }
    )


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


hospitals = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["normal", "opacity", "else"])), max_size=30),
    min_size=1,
    max_size=3,
)


@given(contents=hospitals, order=st.randoms(use_true_random=False))
def test_one_patient_is_in_one_part_whichever_hospital_and_order(contents, order, skipping):
    part_everywhere: dict[str, set[str]] = {}
    for number, content in enumerate(contents):
        rows = [Row(Path(f"{number}/{i}.png"), label, f"p{patient}") for i, (patient, label) in enumerate(content)]
        records = assign(rows, skipping)
        assert assign(order.sample(rows, len(rows)), skipping) == records
        for record in records.records:
            part_everywhere.setdefault(record.patient_id, set()).add(record.part)
    assert all(len(parts) == 1 for parts in part_everywhere.values())


@given(contents=hospitals)
def test_counts_add_up_to_the_rows(contents, skipping):
    for content in contents:
        rows = [Row(Path(f"{i}.png"), label, f"p{patient}") for i, (patient, label) in enumerate(content)]
        records = assign(rows, skipping)
        kept = [row for row in rows if row.label != "else"]
        assert records.images(2).sum() == len(records.records) == len(kept)
        assert sum(records.other_labels.values()) == len(rows) - len(kept)
        assert [len(records.of(part)) for part in PARTS] == records.images(2).sum(axis=1).tolist()
        labels = Counter(row.label for row in kept)
        assert records.images(2).sum(axis=0).tolist() == [labels["normal"], labels["opacity"]]
        # Patients are in one part each, so nobody is counted twice.
        assert records.patients().sum() == len({row.patient_id for row in kept})


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


@pytest.mark.parametrize("label", ["normal", "nORMAL"])
def test_a_label_in_other_capitals_is_recognised_whatever_the_classes(job, label):
    with pytest.raises(DataError, match=rf"'{label}' \(1 image; did you mean 'NORMAL'\?\)"):
        assign([Row(Path("1.png"), label, "p1")], job(classes=["OPACITY", "NORMAL"]))


def test_many_unknown_labels_are_shortened(job):
    rows = [Row(Path(f"{number}.png"), f"{number:02d}", f"p{number}") for number in range(13)]
    with pytest.raises(DataError, match=r"'09' \(1 image\), and 3 more; the classes are: normal, opacity"):
        assign(rows, job())


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
