"""The page for the hospital: one file that asks for nothing, escapes what it is told, and names no other hospital's files."""

import csv
import re
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from client.check import check_hospitals
from client.check_page import MOST_PICTURES, page_paths, to_html, write_page
from client.hospital_drift import Federation, drift_of
from client.images import load_image
from client.quality import NOTHING_SEEN, Closer, Suspect
from client.records import read_rows


@contextmanager
def quiet(title, total):
    yield lambda done: None


class Page(HTMLParser):
    """Tags with their attributes; raises nothing, but keeps what was not closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def hospital(phantoms, tmp_path):
    """A phantom hospital with a few faults, and names that are markup."""
    rows = [["path", "label", "patient_id"]]
    for index, row in enumerate(read_rows(phantoms["hospital-b"])[:12]):
        picture, name = load_image(row.path), f"{index}.png"
        if index == 0:
            name = "<img src=x onerror=alert(1)>.png"
        if index == 1:
            picture = Image.new("L", (64, 64), 9)
        picture.save(tmp_path / name)
        rows.append([name, row.label, row.patient_id])
        if index == 2:
            picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
            rows.append(["turned.png", row.label, "other"])
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows.append(["broken.png", "normal", "p-broken"])
    with (tmp_path / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_the_page_asks_for_nothing_and_is_well_formed(hospital, job):
    result = check_hospitals({"b": hospital}, job(), quiet)
    text = to_html("b", hospital, result, NOTHING_SEEN, job())
    page = Page(text)
    assert page.open == []
    assert not page.of("script")
    assert not page.of("link")
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in page.of("img"))
    assert all(attrs["alt"] for attrs in page.of("img"))
    assert all(attrs["href"].startswith("#") for attrs in page.of("a"))
    assert "url(" not in text
    assert "@import" not in text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert {attrs["href"].removeprefix("#") for attrs in page.of("a")} <= set(ids)
    assert len(ids) == len(set(ids))
    assert page.of("html") == [{"lang": "en"}]
    assert next(name for name, _ in page.tags if re.fullmatch("h[1-6]", name)) == "h1"
    assert all("scope" in attrs for attrs in page.of("th"))
    assert "prefers-color-scheme: dark" in text


def test_it_names_what_was_found_and_says_what_was_not_looked_at(hospital, job):
    result = check_hospitals({"b": hospital}, job(), quiet)
    page = Page(to_html("b", hospital, result, NOTHING_SEEN, job())).text
    for said in (
        "14 images of",
        "broken.png",
        "blank: nothing is to be seen",
        "the same picture, turned by 90 degrees",
        "Not looked at:",
        "--job",
        "<img src=x onerror=alert(1)>.png",
    ):
        assert said in page, said


def test_what_the_backbone_showed_is_there(hospital, job):
    one, rng = job(), np.random.default_rng(0)
    features = rng.normal(size=(30, one.num_features)).astype(np.float32)
    drift = drift_of(features + 3, Federation.of([features], "the run <b>x</b>"), one)
    paths = [row.path for row in read_rows(hospital)]
    suspects = tuple(Suspect(paths[at % 11], f"labelled & doubtful {at}") for at in range(MOST_PICTURES + 3))
    result = check_hospitals({"b": hospital}, one, quiet)
    blank = next(image.digest for image in result.images if image.name == "1.png")
    closer = Closer(suspects, suspects[:2], drift, suspects[:1], {"exact": {blank}, "near": set()}, ("nothing else",))
    text = to_html("b", hospital, result, closer, one)
    page = Page(text)
    assert "labelled & doubtful 26" in page.text  # without a picture
    assert "3 more, without pictures" in page.text
    assert "That is far" in page.text
    assert "the run <b>x</b>" in page.text
    assert "told by a run of the job: the same pixels" in page.text
    assert "nothing else" in page.text
    assert text.count("doubtful 23") == 2  # alt and caption


def test_of_other_hospitals_it_names_no_file(phantoms, hospital, job):
    (hospital / "stolen.png").write_bytes(read_rows(phantoms["hospital-a"])[0].path.read_bytes())
    with (hospital / "manifest.csv").open("a", encoding="utf-8") as file:
        file.write("stolen.png,normal,p-s\n")
    folders = {"a": phantoms["hospital-a"], "b": hospital}
    text = to_html("b", hospital, check_hospitals(folders, job(), quiet), NOTHING_SEEN, job())
    assert "found among the hospitals looked at together" in text
    assert "stolen.png" in text
    for row in read_rows(phantoms["hospital-a"]):
        assert row.path.name not in text


def test_without_a_job_or_a_manifest_there_is_a_page_too(hospital, tmp_path):
    result = check_hospitals({"b": hospital, "empty": tmp_path / "none"}, None, quiet)
    assert "Images of b" in to_html("b", hospital, result, NOTHING_SEEN, None)
    page = to_html("empty", tmp_path / "none", result, NOTHING_SEEN, None)
    assert "found no images" in page or "1 errors" in page


def test_files_of_several_hospitals_and_who_may_read_them(hospital, tmp_path):
    assert page_paths(tmp_path / "p.html", ["a"]) == {"a": tmp_path / "p.html"}
    assert page_paths(tmp_path / "p.html", ["a", "b"])["b"] == tmp_path / "p-b.html"
    assert page_paths(tmp_path / "p", ["a", "b"])["a"] == tmp_path / "p-a.html"
    result = check_hospitals({"b": hospital}, None, quiet)
    write_page(tmp_path / "p.html", "b", hospital, result, NOTHING_SEEN, None)
    assert (tmp_path / "p.html").stat().st_mode & 0o777 == 0o600
