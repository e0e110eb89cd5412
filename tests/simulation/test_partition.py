import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.records import read_rows
from common.errors import ConfigError, DataError
from simulation.partition import (
    PARTITIONERS,
    apply_partition,
    hospital_name,
    parse_partition,
    partition_by_column,
    partition_by_size,
    partition_dirichlet,
)

LABELS = ("covid", "normal", "pneumonia")
pools = st.dictionaries(
    st.text("abcdef0123456789", min_size=1, max_size=6),
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=3),
    min_size=12,
    max_size=60,
)
seeds = st.integers(0, 2**32 - 1)


def partitions(pool, seed):
    def rng():
        return np.random.default_rng(seed)

    yield partition_dirichlet(pool, rng(), hospitals=3, alpha=1.0)
    yield partition_by_size(pool, rng(), hospitals=4, exponent=1.2)
    yield partition_by_column(pool, rng(), column="label")


def balanced(patients: int) -> dict[str, list[str]]:
    return {f"p{index:05d}": [LABELS[index % 3]] for index in range(patients)}


def shares(pool, patients) -> np.ndarray:
    counts = Counter(pool[patient][0] for patient in patients)
    return np.array([counts[label] / len(patients) for label in LABELS])


def write_pool(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def pooled_rows(patients: int = 30) -> list[dict[str, str]]:
    sites = ("St. Mary's", "Zürich", "north_wing")
    return [
        {
            "path": f"img/{index:03d}-{view}.png",
            "site": sites[index % 3],
            "label": LABELS[(index + view) % 3],
            "patient_id": f"p{index:03d}",
            "age": str(30 + index),
        }
        for index in range(patients)
        for view in range(1 + index % 2)
    ]


def read_manifests(hospitals: dict[str, Path]) -> dict[str, list[dict[str, str]]]:
    found = {}
    for name, folder in hospitals.items():
        with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
            found[name] = list(csv.DictReader(file))
    return found


@given(pools, seeds)
@settings(max_examples=40, deadline=None)
def test_every_patient_is_in_exactly_one_hospital_and_no_hospital_is_empty(pool, seed):
    for hospitals in partitions(pool, seed):
        assert sorted(patient for patients in hospitals.values() for patient in patients) == sorted(pool)
        assert all(hospitals.values())


@given(pools, seeds, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_patients_and_of_their_labels_is_irrelevant(pool, seed, random):
    items = [(patient, random.sample(labels, len(labels))) for patient, labels in pool.items()]
    random.shuffle(items)
    assert list(partitions(pool, seed)) == list(partitions(dict(items), seed))


def test_another_seed_gives_another_partition():
    first, second = (list(partitions(balanced(60), seed)) for seed in (0, 1))
    assert first[0] != second[0]
    assert first[1] != second[1]


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_large_alpha_keeps_the_pooled_label_shares(seed):
    pool = balanced(600)
    hospitals = partition_dirichlet(pool, np.random.default_rng(seed), hospitals=4, alpha=1e5)
    for patients in hospitals.values():
        np.testing.assert_allclose(shares(pool, patients), 1 / 3, atol=0.02)
        assert len(patients) == pytest.approx(150, abs=6)


def test_small_alpha_skews_labels_and_does_so_more_than_a_larger_one():
    pool = balanced(600)

    def largest_share(alpha: float) -> float:
        found = []
        for seed in range(20):
            hospitals = partition_dirichlet(pool, np.random.default_rng(seed), hospitals=4, alpha=alpha)
            found += [shares(pool, patients).max() for patients in hospitals.values()]
        return float(np.mean(found))

    skewed, mild, even = largest_share(0.1), largest_share(2.0), largest_share(1e4)
    assert skewed > 0.8 > mild > even
    assert even < 0.37


def test_a_rare_label_favours_no_hospital():
    pool = balanced(300) | {"rare": ["abscess"]}
    homes = Counter()
    for seed in range(200):
        hospitals = partition_dirichlet(pool, np.random.default_rng(seed), hospitals=4, alpha=1e4)
        homes.update(name for name, patients in hospitals.items() if "rare" in patients)
    assert len(homes) == 4
    assert max(homes.values()) < 80


def test_a_patient_counts_by_the_most_frequent_label_ties_by_name():
    pool = {"p1": ["b", "a", "b"], "p2": ["b", "a"], "p3": ["b"]}
    hospitals = partition_by_column(pool, np.random.default_rng(0), column="label")
    assert hospitals == {"a": ("p2",), "b": ("p1", "p3")}


def test_several_values_of_a_column_are_counted_in_the_log_without_naming_anyone(caplog):
    partition_by_column({"p1": ["x", "y"], "p2": ["x"]}, np.random.default_rng(0), column="site")
    assert caplog.messages == ["1 patients have several values of 'site'; each is in the most frequent one"]


def test_hopeless_dirichlet_says_what_to_do():
    with pytest.raises(ConfigError, match=r"each of 100 draws over 12 patients; use fewer hospitals or a larger alpha"):
        partition_dirichlet(balanced(12), np.random.default_rng(0), hospitals=12, alpha=0.01)


@pytest.mark.parametrize("text", ["dirichlet:hospitals=5,alpha=1", "size:hospitals=5,exponent=1"])
def test_more_hospitals_than_patients_are_refused(text, tmp_path):
    source = write_pool(tmp_path / "pool", pooled_rows(4))
    with pytest.raises(ConfigError, match="4 patients are too few for 5 hospitals; use fewer"):
        apply_partition(source, parse_partition(text), tmp_path / "out", seed=0)


def test_sizes_follow_the_exponent():
    rng = np.random.default_rng(0)
    hospitals = partition_by_size(balanced(110), rng, hospitals=3, exponent=1.0)
    assert [len(patients) for patients in hospitals.values()] == [60, 30, 20]
    hospitals = partition_by_size(balanced(10), rng, hospitals=3, exponent=0.0)
    assert [len(patients) for patients in hospitals.values()] == [4, 3, 3]
    hospitals = partition_by_size(balanced(5), rng, hospitals=4, exponent=10.0)
    assert [len(patients) for patients in hospitals.values()] == [2, 1, 1, 1]


def test_hospital_names():
    assert [hospital_name(index) for index in (0, 25, 26)] == ["hospital-a", "hospital-z", "hospital-027"]


def test_parsing():
    partition = parse_partition(" dirichlet: hospitals=5, alpha=0.5 ")
    assert (partition.name, dict(partition.options)) == ("dirichlet", {"hospitals": 5, "alpha": 0.5})
    assert dict(parse_partition("size:exponent=1.2,hospitals=3").options) == {"hospitals": 3, "exponent": 1.2}
    assert dict(parse_partition("column:site").options) == {"column": "site"}
    assert all(row.summary for row in PARTITIONERS.values())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dirichlt:alpha=1", ["unknown partition 'dirichlt'", "did you mean 'dirichlet'?", "dirichlet, size, column"]),
        ("", ["unknown partition ''"]),
        ("dirichlet:hospitals=5,beta=1", ["unknown option 'beta'", "hospitals, alpha", "alpha: expected", "got none"]),
        ("dirichlet:hospitals=0,alpha=0", ["a whole number from 1 to 10000, got '0'", "alpha: expected a number from"]),
        ("dirichlet:hospitals=2.5,alpha=nan", ["got '2.5'", "got 'nan'"]),
        ("size:hospitals=3,hospitals=4,exponent=1", ["given twice"]),
        ("size:hospitals=3,exponent", ["exponent: expected a number from 0 to 10, got ''"]),
        ("column:", ["expected the name of a column"]),
    ],
)
def test_wrong_texts_are_config_errors(text, parts):
    with pytest.raises(ConfigError) as caught:
        parse_partition(text)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["dirichlet:hospitals=3,alpha=1", "size:hospitals=3,exponent=1", "column:site"])
def test_manifests_hold_every_row_once_with_all_columns_and_whole_patients(text, tmp_path):
    rows = pooled_rows()
    source = write_pool(tmp_path / "pool", rows)
    hospitals = apply_partition(source, parse_partition(text), tmp_path / "out", seed=7)
    found = read_manifests(hospitals)
    expected = [row | {"path": str(source / row["path"])} for row in rows]
    together = [row for manifest in found.values() for row in manifest]
    assert sorted(together, key=lambda row: row["path"]) == sorted(expected, key=lambda row: row["path"])
    assert list(together[0]) == ["path", "site", "label", "patient_id", "age"]
    homes: dict[str, set[str]] = {}
    for name, manifest in found.items():
        for row in manifest:
            homes.setdefault(row["patient_id"], set()).add(name)
    assert all(len(names) == 1 for names in homes.values())
    assert sum(len(read_rows(folder)) for folder in hospitals.values()) == len(rows)


def test_the_order_of_rows_is_irrelevant(tmp_path):
    partition = parse_partition("dirichlet:hospitals=3,alpha=0.5")
    source = write_pool(tmp_path / "pool", pooled_rows())
    first = read_manifests(apply_partition(source, partition, tmp_path / "one", seed=7))
    write_pool(source, pooled_rows()[::-1])
    assert read_manifests(apply_partition(source / "manifest.csv", partition, tmp_path / "two", seed=7)) == first


def test_hospitals_of_a_column_have_safe_names(tmp_path):
    source = write_pool(tmp_path / "pool", pooled_rows())
    hospitals = apply_partition(source, parse_partition("column:site"), tmp_path / "out", seed=0)
    assert set(hospitals) == {"st-mary-s", "zurich", "north_wing"}
    assert {row["site"] for row in read_manifests(hospitals)["zurich"]} == {"Zürich"}


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        (("St Mary", "st-mary"), ConfigError, "'St Mary' and 'st-mary' would all be hospital 'st-mary'; rename"),
        (("east", "???"), ConfigError, r"no hospital can be named after '\?\?\?'"),
        (("east", " "), DataError, "1 rows have no 'site'; fill it in"),
    ],
)
def test_unusable_column_values_are_refused(tmp_path, sites, error, message):
    rows = [row | {"site": site} for row, site in zip(pooled_rows()[::2], sites, strict=False)]
    with pytest.raises(error, match=message):
        apply_partition(write_pool(tmp_path, rows), parse_partition("column:site"), tmp_path / "out", seed=0)


def test_an_unknown_column_lists_the_columns(tmp_path):
    source = write_pool(tmp_path / "pool", pooled_rows())
    with pytest.raises(ConfigError, match=r"unknown column 'sites'; did you mean 'site'\?.*path, site, label"):
        apply_partition(source, parse_partition("column:sites"), tmp_path / "out", seed=0)


def test_a_folder_per_class_is_a_pool_too(tmp_path):
    for label in ("ill", "well"):
        for index in range(6):
            path = tmp_path / "pool" / label / f"{label}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    partition = parse_partition("size:hospitals=2,exponent=0")
    found = read_manifests(apply_partition(tmp_path / "pool", partition, tmp_path / "out", seed=0))
    rows = [row for manifest in found.values() for row in manifest]
    assert len(rows) == 12
    assert all(Path(row["path"]).is_file() and Path(row["path"]).parent.name == row["label"] for row in rows)


def test_equal_hospitals_are_left_alone_and_others_never_overwritten(tmp_path):
    source, out = write_pool(tmp_path / "pool", pooled_rows()), tmp_path / "out"
    partition = parse_partition("size:hospitals=3,exponent=1")
    first = apply_partition(source, partition, out, seed=0)
    before = read_manifests(first)
    assert apply_partition(source, partition, out, seed=0) == first
    for text, seed in (("size:hospitals=3,exponent=1", 1), ("size:hospitals=2,exponent=1", 0), ("column:site", 0)):
        with pytest.raises(DataError, match=r"holds other hospitals, 'hospital-.' is one; give a new or empty folder"):
            apply_partition(source, parse_partition(text), out, seed=seed)
    assert read_manifests(first) == before


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path):
    source = write_pool(tmp_path / "pool", pooled_rows())
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot write hospitals"):
        apply_partition(source, parse_partition("size:hospitals=2,exponent=1"), tmp_path / "out", seed=0)
