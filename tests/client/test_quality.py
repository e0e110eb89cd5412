"""What is looked at through the backbone, and what is said where it could not be."""

import csv

import pytest
from PIL import Image

from client.images import load_image
from client.quality import in_words, look_closer
from client.records import read_rows
from simulation.pooling import Machine


@pytest.fixture
def look(job, cache_dir):
    machine = Machine(cache_dir=cache_dir, device="cpu")

    def at(folders, **changes):
        files = {name: machine.hospital_file(name, folder) for name, folder in folders.items()}
        return look_closer(files, job(**{"features": {"stages": "all"}, **changes}))

    return at


def some_of(source, folder, number, turn=()):
    """The first images of a hospital, some of them turned."""
    folder.mkdir(parents=True)
    rows = [["path", "label", "patient_id"]]
    for at, row in enumerate(read_rows(source)[:number]):
        picture = load_image(row.path)
        (picture.transpose(Image.Transpose.ROTATE_90) if at in turn else picture).save(folder / f"{at}.png")
        rows.append([f"{at}.png", row.label, row.patient_id])
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_an_image_on_its_side_is_named_and_few_others(phantoms, look, tmp_path):
    folder = some_of(phantoms["hospital-b"], tmp_path / "b", 24, turn=(5, 17))
    found = look({"b": folder})["b"]
    named = {one.path.name: one.words for one in found.turned}
    assert {"5.png", "17.png"} <= set(named)
    assert "turned" in named["5.png"]
    assert len(named) <= 4
    assert found.drift is None
    unseen = " ".join(found.unseen)
    assert "has not taken part in a run of this job" in unseen
    assert "duplicates: check" in unseen


def test_what_is_too_few_is_said(phantoms, look, tmp_path):
    found = look({"a": some_of(phantoms["hospital-a"], tmp_path / "a", 6)})["a"]
    assert found.labels == found.turned == ()
    unseen = " ".join(found.unseen)
    assert "labels in doubt: fewer than two classes" in unseen
    assert "images turned or inverted: fewer than 20" in unseen


def test_a_hospital_of_other_labels_does_not_stop_the_others(phantoms, look, tmp_path):
    (tmp_path / "x" / "fracture").mkdir(parents=True)
    Image.new("L", (64, 64)).save(tmp_path / "x" / "fracture" / "1.png")
    found = look({"x": tmp_path / "x", "a": some_of(phantoms["hospital-a"], tmp_path / "a", 6)})
    assert "no class of job" in found["x"].unseen[0]
    assert found["x"].to_dict(tmp_path)["drift"] is None
    said = in_words("x", found["x"], tmp_path)
    assert said[0].startswith("x: not looked at: anything that needs the backbone")


def test_several_hospitals_are_compared_with_all_of_them(phantoms, look):
    found = look({name: phantoms[name] for name in ("hospital-a", "hospital-b")})
    for closer in found.values():
        assert closer.drift.source == "the 2 hospitals looked at together"
        assert closer.drift.images == 40
        assert not closer.drift.far
