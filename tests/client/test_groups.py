"""Counts by group: what is told adds up, small groups are not told, and subtraction does not tell them either."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.groups import OUTSIDE, group_counts, told_groups
from client.policy import Policy, require_policy
from client.records import Record, assign, read_rows
from client.rounding import rounded_counts, told_images
from client.suppression import Suppression
from common.errors import ConfigError, DataError, Refusal
from common.groups import GROUPS, LEAST_PATIENTS, NO_GROUP, WORDS
from common.head import softmax
from common.messages import unpack_counts
from common.metrics import count
from common.model import Model
from common.wire import REFUSAL, Packed

SEX = {"evaluation": {"test_fraction": 0.5, "validation_fraction": 0.1, "groups": ["sex"]}}


def told(groups, labels, patients=None, number=2, least=3):
    patients = [str(index) for index in range(len(groups))] if patients is None else patients
    return set(told_groups(np.array(groups), np.array(labels), patients, number, 2, least))


def of(*sizes):
    """Groups and labels: of each (group, label) so many images."""
    groups = [group for group, _, images in sizes for _ in range(images)]
    return groups, [label for _, label, images in sizes for _ in range(images)]


def test_a_group_needs_patients_of_every_class():
    assert told(*of((0, 0, 3), (0, 1, 3), (1, 0, 3), (1, 1, 3))) == {0, 1}
    assert told(*of((0, 0, 9), (0, 1, 9), (1, 0, 9), (1, 1, 2))) == set()  # the rest would be group 1
    assert told(*of((0, 0, 9), (0, 1, 9), (1, 0, 9), (1, 1, 2), (OUTSIDE, 1, 1))) == {0}
    assert told([], []) == set()


def test_images_of_one_patient_count_once():
    groups, labels = of((0, 0, 3), (0, 1, 3), (1, 0, 3), (1, 1, 3))
    assert told(groups, labels, ["a", "a", "b", *"cdefghijk"]) == set()


def test_a_group_is_withheld_where_the_rest_would_be_small():
    both = ((0, 0, 4), (0, 1, 4), (1, 0, 3), (1, 1, 3))
    assert told(*of(*both)) == {0, 1}
    assert told(*of(*both, (OUTSIDE, 0, 1))) == {0}  # without a value: one patient
    assert told(*of(*both, (OUTSIDE, 0, 3), (OUTSIDE, 1, 3))) == {0, 1}


image = st.tuples(st.integers(OUTSIDE, 2), st.integers(0, 1), st.integers(0, 40))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(image, max_size=80), st.integers(1, 6))
def test_neither_a_told_group_nor_the_rest_is_small(images, least):
    groups, labels, patients = ([one[place] for one in images] for place in range(3))
    found = told(groups, labels, [str(one) for one in patients], 3, least)
    rest = [one for one in images if one[0] not in found]
    for some in [[one for one in images if one[0] == group] for group in found] + ([rest] if found and rest else []):
        for label in (0, 1):
            assert len({patient for _, other, patient in some if other == label}) >= least
    if found and not rest:
        assert found == {0, 1, 2}


def test_an_empty_group_cannot_be_told_from_a_small_one():
    """The attack: all test counts less those of the told group. Nothing is told, whether group 1 has 0 or 4 patients."""
    for images in range(5):
        sizes = ((0, 0, 20), (0, 1, 20), (1, 0, images), (1, 1, 20 if images else 0))
        assert told(*of(*sizes), least=5) == set()


def some(seed, per_class, classes):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    logits = rng.normal(0, 2, (len(labels), classes))
    logits[np.arange(len(labels)), labels] += 1.0
    return softmax(logits), labels


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("base", [2, 5, 7])
def test_told_images_make_the_confusion_matrix_that_is_told(base, classes):
    for seed in range(20):
        probabilities, labels = some(seed, base * 4, classes)
        suppression = Suppression(base, bytes([seed]) * 32, tuple("abc"[:classes]))
        times = suppression.times(probabilities, labels, "test")
        found = np.zeros((classes, classes), int)
        np.add.at(found, (labels, probabilities.argmax(axis=1)), times)
        assert found.tolist() == suppression.count(probabilities, labels, "test").confusion.tolist()


def test_of_images_in_one_place_only_so_many_are_told_as_there_are_ranks():
    probabilities = np.tile([[0.25, 0.75]], (6, 1))
    found = told_images(probabilities, np.ones(6, np.int64), {1: np.array([2, 5])})
    assert found.sum() == 2
    assert rounded_counts(probabilities, np.ones(6, np.int64), {1: np.array([2, 5])}, 3).confusion[1, 1] == 6


def records_of(labels, groups):
    return [
        Record(None, int(label), str(at), "test", (int(group),))
        for at, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


def test_counts_by_group_add_up_to_all_counts():
    probabilities, labels = some(0, 30, 2)
    groups = np.arange(60) % 2
    times = np.ones(60, np.int64)
    found = group_counts(probabilities, records_of(labels, groups), ["sex"], times, 5)
    assert found.shape == (2, 2, 2)
    assert found.sum(axis=0).tolist() == count(probabilities, labels).confusion.tolist()
    assert found[0].tolist() == count(probabilities[groups == 0], labels[groups == 0]).confusion.tolist()
    assert not group_counts(probabilities, records_of(labels, groups), ["sex"], times, 16).any()


@pytest.fixture(scope="module")
def with_sex(phantoms, tmp_path_factory):
    """A manifest of all phantom images with sex and age band, alternately."""
    path = tmp_path_factory.mktemp("groups") / "manifest.csv"
    rows = [row for folder in phantoms.values() for row in read_rows(folder)]
    words = ("F", "male"), ("m", "Female")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "patient_id", "Sex", "age_band"))
        for at, row in enumerate(rows):
            patient = f"{row.path.parts[-3]}-{row.patient_id}"
            sex = words[int.from_bytes(patient.encode(), "big") % 2][0]
            writer.writerow((row.path.resolve(), row.label, patient, sex, "60-79" if at % 2 else ""))
    return path


def test_the_manifest_says_who_is_in_which_group(with_sex, job, tmp_path):
    rows = read_rows(with_sex)
    assert {row.sex for row in rows} <= {"f", "m"}
    records = assign(rows, job(evaluation={"groups": ["age_band", "sex"]})).records
    assert {one.groups[0] for one in records} == {OUTSIDE, GROUPS["age_band"].index("60-79")}
    assert {one.groups for one in assign(rows, job()).records} == {()}
    other = tmp_path / "manifest.csv"
    other.write_text(with_sex.read_text().replace(",F,", ",woman,"))
    assign(read_rows(other), job())  # nobody asks
    with pytest.raises(
        DataError, match=r"column 'sex' of the manifest: 'woman' \(\d+ images\); expected one of female, f, male"
    ):
        assign(read_rows(other), job(**SEX))
    assert not set(NO_GROUP) & {word for words in WORDS.values() for word in words}


@pytest.mark.parametrize("min_count", [1, 6])
def test_a_hospital_tells_groups_that_add_up_to_its_test_counts(with_sex, job, hospital_with, requests_of, min_count):
    hospital = hospital_with(with_sex, allow_groups=("sex", "age_band"), min_count=min_count)
    made = job(**SEX)
    asked = requests_of(made, hospital)
    head = asked.head(0)
    reply = hospital.answer("groups", Packed({**asked.fit().arrays, **Model(head).arrays()}, asked.fit().fields))
    assert REFUSAL not in reply.fields
    found = reply.arrays["confusion"]
    [whole] = unpack_counts(hospital.answer("evaluate", asked.evaluate(heads=1)).arrays)
    assert (found.sum(axis=(1, 2)) > 0).all()
    assert found.sum(axis=0).tolist() == whole.confusion.tolist()  # everybody has a sex
    assert (found % min_count == 0).all()


def test_a_policy_forbids_groups_unless_it_lists_them(job):
    with pytest.raises(Refusal, match=r"by sex; policy\.allow_groups has: age_band"):
        require_policy(Policy(allow_groups=("age_band",)), job(**SEX))
    with pytest.raises(Refusal, match=r"policy\.allow_groups has: none"):
        require_policy(Policy(), job(**SEX))
    require_policy(Policy(allow_groups=("sex",)), job(**SEX))
    require_policy(Policy(), job())


def test_a_job_names_attributes_once_and_known_ones(job):
    assert job().evaluation.groups == ()
    assert LEAST_PATIENTS >= 5
    for wrong in (["sex", "sex"], ["postcode"]):
        with pytest.raises(ConfigError, match="evaluation"):
            job(evaluation={"groups": wrong})
