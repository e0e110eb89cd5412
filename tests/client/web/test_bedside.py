"""Uploads: what is no image gets a clean refusal, what is one gets the answer of the model, and nothing is stored."""

import base64
import io
import os
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.diagnosis import REFER, Diagnostician
from client.diagnosis_record import Heatmap
from client.hospital_file import Data, HospitalFile
from client.records import read_rows
from client.web import asking, bedside
from client.web.api import UNREADABLE
from client.web.asking import UnknownKind
from client.web.bedside import Model, as_file, load_model, warm
from client.web.pages import DIAGNOSE, make_site
from common.web.access import Access
from common.web.gate import WORDS, Rules
from tests.client.web.drawn import drawn_model

MOST = 2_000_000
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def model_file(job, tmp_path_factory):
    return drawn_model(job(), tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def model(model_file):
    return load_model(model_file, None, "cpu", None, None, 0.0, MOST)


@pytest.fixture
def site(model, phantoms, tmp_path):
    own = HospitalFile(name="st-marys", data=Data(folder=phantoms["hospital-a"]), cache=tmp_path)
    return make_site(own, Rules(Access("test"), large={DIAGNOSE: MOST}), model)


@pytest.fixture
def upload(site, visitor):
    person = visitor(site)
    return lambda content: person.post(DIAGNOSE, content=content, headers={"x-form-token": person.token})


@pytest.fixture(scope="module")
def image(phantoms):
    return next(row.path for row in read_rows(phantoms["hospital-c"]))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says so; its pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def bomb() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("image.png", b"\0" * 20_000_000)
    return data.getvalue()


def test_an_image_gets_the_answer_that_diagnose_gives(upload, image, model_file):
    answer = upload(image.read_bytes())
    assert answer.status_code == 200
    found = answer.json()
    [expected] = Diagnostician(model_file, device="cpu").diagnose([image], 0.0)
    assert {one["name"]: one["probability"] for one in found["probabilities"]} == pytest.approx(expected.probabilities)
    assert found["label"] == (None if expected.label == REFER else expected.label)
    assert (found["refer"], found["kind"]) == (expected.label == REFER, "JPEG")
    assert found["leaning"] == expected.leaning
    heat = Image.open(io.BytesIO(base64.b64decode(found["heatmap"])))
    assert (heat.size, heat.mode) == ((bedside.SHOWN_PX, bedside.SHOWN_PX), "RGBA")
    shown = Image.open(io.BytesIO(base64.b64decode(found["image"])))
    assert shown.size == (bedside.SHOWN_PX, bedside.SHOWN_PX)
    assert answer.headers["cache-control"] == "no-store"


def test_below_the_threshold_it_refers_and_says_why(model, image):
    found = Model(model.diagnostician, 1.0, MOST, model.turn).answer(image.read_bytes())
    assert found.refer
    assert found.label is None
    assert any(one.startswith("Not confident") for one in found.reasons)
    assert found.leaning == found.probabilities[0].name


@pytest.mark.parametrize(
    "content", [bomb(), SVG, b"", b"%PDF-1.7", b"<html><script>", b"\x1f\x8b" + b"x" * 99, b"GIF89a"]
)
def test_what_is_no_image_is_refused_by_its_content(upload, content):
    answer = upload(content)
    assert (answer.status_code, answer.json()) == (415, {"detail": WORDS[415]})


@pytest.mark.parametrize(
    "content",
    [
        png_of(100_000, 100_000),
        png_of(2**31 - 1, 2**31 - 1),
        png_of(20_000, 20_000),
        png_of(0, 0),
        png_of(99, 99)[:-25],
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"II*\0",
    ],
    ids=["huge", "absurd", "large", "empty", "without pixels", "cut off", "bmp", "tiff"],
)
def test_a_damaged_or_absurd_image_is_refused_without_details(upload, content):
    answer = upload(content)
    assert (answer.status_code, answer.json()) == (422, {"detail": UNREADABLE})


def test_300_mb_are_refused_before_they_are_read(site, visitor):
    person, sent = visitor(site), []

    def parts():
        for _ in range(300):
            sent.append(1_000_000)
            yield b"\x89PNG\r\n\x1a\n" + bytes(999_992)

    answer = person.post(DIAGNOSE, content=parts(), headers={"x-form-token": person.token})
    assert (answer.status_code, answer.json()) == (413, {"detail": WORDS[413]})
    assert sum(sent) <= MOST + 1_000_000
    sent.clear()
    declared = {"x-form-token": person.token, "content-length": "300000000"}
    assert person.post(DIAGNOSE, content=parts(), headers=declared).status_code == 413
    assert not sent


def test_nothing_is_stored(upload, image, monkeypatch, tmp_path):
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(kept))
    content, seen = image.read_bytes(), []
    diagnose = Diagnostician.diagnose

    def looking(self, images, threshold, **options):
        seen.extend(path for path in kept.rglob("*") if path.is_file() and not path.is_symlink())
        assert images[0].read_bytes() == content
        return diagnose(self, images, threshold, **options)

    monkeypatch.setattr(Diagnostician, "diagnose", looking)
    assert upload(content).status_code == 200
    assert seen == []
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_link_holds_the_content_while_it_is_needed(in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    with as_file(b"content", ".png") as path:
        assert path.suffix == ".png"
        assert path.read_bytes() == path.read_bytes() == b"content"
    assert not path.is_symlink()
    assert not path.parent.exists()


def test_what_cannot_be_read_here_is_not_accepted(model, monkeypatch):
    for module in (asking, bedside):
        monkeypatch.setattr(module, "IMAGE_SUFFIXES", (".jpg",))
    assert model.about().accepts == ["JPEG"]
    with pytest.raises(UnknownKind, match="JPEG"):
        model.answer(png_of(99, 99))


def test_the_model_is_described_by_its_manifest(model):
    about = model.about()
    assert (about.test_images, about.hospitals) == (12, 2)
    assert {one.name: (one.value, one.low) for one in about.reference}["AUROC"] == (0.9, 0.8)
    assert any("random weights" in one for one in about.limits)
    assert any("not a medical device" in one for one in about.limits)


def test_the_heatmap_is_clear_where_nothing_speaks_for_the_class():
    grid = np.array([[-1.0, 0.0], [0.0, 2.0]], np.float32)
    drawn = np.asarray(warm(Heatmap(grid, "opacity", "class activation map"), 8))
    assert drawn.shape == (8, 8, 4)
    assert (drawn[0, 0, 3], drawn[-1, -1, 3]) == (0, 255)
    assert tuple(drawn[-1, -1, :3]) == (255, 0, 0)
    assert warm(Heatmap(np.zeros((2, 2), np.float32), "opacity", ""), 8).getextrema()[3] == (0, 0)


def test_no_path_is_logged(upload, caplog):
    upload(png_of(99, 99)[:-25])
    assert not [one for one in caplog.records if "/" in one.getMessage()]
    assert Path(tempfile.gettempdir()).name not in caplog.text
