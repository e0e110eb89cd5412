import io
import json
import time
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from client.check import check_hospitals
from client.check_findings import CheckResult, ClassFindings, HospitalFindings
from client.check_table import print_check
from common.wire import PARTS


@contextmanager
def quiet(title, total):
    yield lambda done: None


def picture(seed, size=(96, 80)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def hospital(folder, images):
    """A hospital from (file name, label, patient, split, content): a Pillow image, bytes, or None for no file."""
    folder.mkdir(parents=True)
    lines = ["path,label,patient_id,split"]
    for name, label, patient, split, content in images:
        lines.append(f"{name},{label},{patient},{split}")
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            content.save(folder / name)
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def healthy(folder, first=0, patients="p"):
    labels = ("normal", "opacity") * 3
    parts = ("train", "train", "validation", "validation", "test", "test")
    images = [
        (f"{i}.png", label, f"{patients}{i}", part, picture(first + i))
        for i, (label, part) in enumerate(zip(labels, parts, strict=True))
    ]
    return hospital(folder, images)


def add(folder, name, label, patient, split, content):
    with (folder / "manifest.csv").open("a", encoding="utf-8") as file:
        file.write(f"{name},{label},{patient},{split}\n")
    content.save(folder / name)


def printed_of(result):
    print_check(result, console := Console(file=io.StringIO(), width=4000, record=True))
    return console.export_text()


def test_healthy_hospitals_have_nothing_to_say(tmp_path, job):
    folders = {"a": healthy(tmp_path / "a", 0, "p"), "b": healthy(tmp_path / "b", 50, "q")}
    result = check_hospitals(folders, job(), quiet)
    assert result.errors == ()
    assert result.warnings == ()
    assert result.exact_duplicates == result.near_duplicates == ()
    one = result.hospitals["a"].classes["normal"]
    assert (one.images, one.patients, one.bit_depths) == (3, 3, {8: 3})
    assert one.sizes_px == ((96, 80),) * 3
    assert result.hospitals["a"].images_by_part == {"train": 2, "validation": 2, "test": 2}


def test_sizes_and_bit_depths(tmp_path):
    deep = Image.fromarray(np.random.default_rng(3).integers(0, 4096, (50, 60), dtype=np.uint16))
    content = [picture(1, (20, 200)), picture(2, (40, 90)), deep]
    folder = hospital(tmp_path / "a", [(f"{i}.png", "x", f"p{i // 2}", "", image) for i, image in enumerate(content)])
    found = check_hospitals({"a": folder}, None, quiet).hospitals["a"].classes["x"]
    assert (found.images, found.patients) == (3, 2)
    assert found.sizes_px == ((20, 50), (40, 90), (60, 200))
    assert found.bit_depths == {8: 2, 16: 1}


def test_every_image_advances_the_progress_once(tmp_path):
    seen = []

    @contextmanager
    def counting(title, total):
        seen.append(total)
        yield seen.append

    check_hospitals({"a": healthy(tmp_path / "a")}, None, counting)
    assert seen == [6, 1, 1, 1, 1, 1, 1]


def test_without_a_job_no_class_is_missing_and_no_label_wrong(tmp_path):
    folder = hospital(tmp_path / "a", [(f"{i}.png", "anything", f"p{i}", "", picture(i)) for i in range(3)])
    result = check_hospitals({"a": folder}, None, quiet)
    assert result.errors == result.warnings == ()
    assert (result.job, result.hospitals["a"].missing_classes) == (None, ())
    assert sum(result.hospitals["a"].images_by_part.values()) == 3


def test_phantoms_are_sound(phantoms, job):
    result = check_hospitals(phantoms, job(), quiet)
    assert result.errors == result.exact_duplicates == ()
    for name, found in result.hospitals.items():
        assert sum(found.images_by_part.values()) == 40
        depths = {label: list(one.bit_depths) for label, one in found.classes.items()}
        depth = 16 if name == "hospital-a" else 8
        assert depths == {"normal": [depth], "opacity": [depth]}


def test_sub_folders_and_manifests_elsewhere_are_checked_too(tmp_path):
    (tmp_path / "a" / "normal").mkdir(parents=True)
    picture(1).save(tmp_path / "a" / "normal" / "1.png")
    elsewhere = tmp_path / "lists" / "b.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text(f"path,label,patient_id\n{tmp_path}/a/normal/1.png,normal,p1\n", encoding="utf-8")
    result = check_hospitals({"a": tmp_path / "a", "b": elsewhere}, None, quiet)
    assert result.errors == ()
    assert result.exact_duplicates == (("a/normal/1.png", f"b/{tmp_path}/a/normal/1.png"),)


def test_unreadable_files_are_named_and_the_others_still_checked(tmp_path, job):
    folder = healthy(tmp_path / "a")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "1.png").write_text("no image")
    (folder / "2.png").unlink()
    result = check_hospitals({"a": folder}, job(), quiet)
    assert set(result.hospitals["a"].unreadable) == {"0.png", "1.png", "2.png"}
    assert len(result.errors) == 1
    assert result.errors[0].startswith("a: 3 unreadable file(s): 0.png (")
    assert result.hospitals["a"].classes["normal"].images == 3
    assert result.hospitals["a"].classes["normal"].bit_depths == {8: 1}


def test_five_unreadable_files_are_named_and_the_rest_counted(tmp_path):
    folder = hospital(tmp_path / "a", [(f"{i}.png", "x", f"p{i}", "", b"no image") for i in range(8)])
    result = check_hospitals({"a": folder}, None, quiet)
    (error,) = result.errors
    assert error.startswith("a: 8 unreadable file(s): 0.png (")
    assert error.count("expected the content") == 5
    assert error.endswith("; and 3 more")
    assert result.hospitals["a"].classes["x"].sizes_px == ()


def test_a_hospital_without_a_usable_manifest_does_not_stop_the_others(tmp_path, job):
    broken = hospital(tmp_path / "broken", [("1.png", "", "p1", "", None)])
    (tmp_path / "empty").mkdir()
    folders = {"broken": broken, "empty": tmp_path / "empty", "a": healthy(tmp_path / "a")}
    result = check_hospitals(folders, job(), quiet)
    assert list(result.hospitals) == ["a"]
    assert [error.split(":")[0] for error in result.errors] == ["broken", "empty"]
    assert "line 2: 'label' is empty" in result.errors[0]
    assert "found no images" in result.errors[1]


def test_labels_outside_the_job(tmp_path, job):
    folder = healthy(tmp_path / "a")
    add(folder, "x.png", "opacty", "p9", "", picture(90))
    refused = check_hospitals({"a": folder}, job(), quiet)
    assert len(refused.errors) == 1
    assert "'opacty' (1 image; did you mean 'opacity'?)" in refused.errors[0]
    skipped = check_hospitals({"a": folder}, job(other_labels="skip"), quiet)
    assert skipped.errors == ()
    assert skipped.warnings == ("a: left out because of their labels: opacty (1)",)
    assert sum(skipped.hospitals["a"].images_by_part.values()) == 6


def test_a_label_that_is_left_out_does_not_give_a_patient_several(tmp_path, job):
    folder = healthy(tmp_path / "a")
    add(folder, "x.png", "fracture", "p0", "train", picture(90))
    skipped = check_hospitals({"a": folder}, job(other_labels="skip"), quiet)
    assert skipped.hospitals["a"].patients_with_several_labels == 0
    assert skipped.warnings == ("a: left out because of their labels: fracture (1)",)
    assert check_hospitals({"a": folder}, None, quiet).hospitals["a"].patients_with_several_labels == 1


def test_missing_classes_and_empty_parts(tmp_path, job):
    folder = hospital(tmp_path / "a", [("1.png", "normal", "p1", "train", picture(1))])
    result = check_hospitals({"a": folder}, job(), quiet)
    assert result.errors == ()
    assert result.warnings == ("a: has no image of: opacity", "a: no image falls into the test part")


def test_patients_with_several_labels_and_in_several_hospitals(tmp_path, job):
    one = healthy(tmp_path / "a", 0, "p")
    add(one, "x.png", "opacity", "p0", "train", picture(70))
    result = check_hospitals({"a": one, "b": healthy(tmp_path / "b", 50, "p")}, job(), quiet)
    assert "a: 1 patient(s) have images of several labels" in result.warnings
    assert "6 patient id(s) appear in several hospitals: p0; p1; p2; p3; p4; and 1 more" in result.warnings


def test_the_same_file_with_different_labels_is_an_error(tmp_path, job):
    folder = healthy(tmp_path / "a")
    add(folder, "copy.png", "opacity", "p0", "train", picture(0))
    result = check_hospitals({"a": folder}, job(), quiet)
    assert result.exact_duplicates == (("a/0.png", "a/copy.png"),)
    assert result.errors == ("the same file has different labels: a/0.png (normal), a/copy.png (opacity)",)


def test_exact_and_near_duplicates_across_hospitals(tmp_path, job):
    one, other = healthy(tmp_path / "a", 0, "p"), healthy(tmp_path / "b", 50, "q")
    add(other, "copy.png", "normal", "q8", "test", picture(0))
    add(other, "smaller.jpg", "opacity", "q9", "train", picture(1).resize((48, 40), Image.Resampling.BILINEAR))
    result = check_hospitals({"a": one, "b": other}, job(), quiet)
    assert result.exact_duplicates == (("a/0.png", "b/copy.png"),)
    assert result.near_duplicates == (("a/1.png", "b/smaller.jpg"),)
    exact, near = (next(text for text in result.warnings if f"of {what}" in text) for what in ("exact", "near"))
    # The first stands in train at one hospital and in test at the other, the second in train at both.
    assert "1 group(s) of exact duplicates, 1 across hospitals, 1 in different parts" in exact
    assert "1 group(s) of near duplicates, 1 across hospitals, 0 in different parts" in near
    assert result.errors == ()


def test_a_near_duplicate_in_another_part_is_a_leak_that_is_shown_first(tmp_path, job):
    folder = healthy(tmp_path / "a")
    for number, split in ((0, "train"), (1, "test")):
        small = picture(number).resize((48, 40), Image.Resampling.BILINEAR)
        add(folder, f"small{number}.jpg", ("normal", "opacity")[number], f"q{number}", split, small)
    result = check_hospitals({"a": folder}, job(), quiet)
    assert result.errors == result.exact_duplicates == ()
    assert result.near_duplicates == (("a/0.png", "a/small0.jpg"), ("a/1.png", "a/small1.jpg"))
    (warning,) = result.warnings
    assert "2 group(s) of near duplicates, 0 across hospitals, 1 in different parts" in warning
    assert warning.endswith(": a/1.png = a/small1.jpg")


def test_a_copy_inside_one_hospital_and_part_is_no_leak(tmp_path, job):
    folder = healthy(tmp_path / "a")
    add(folder, "again.png", "normal", "p0", "train", picture(0))
    (warning,) = check_hospitals({"a": folder}, job(), quiet).warnings
    assert "1 group(s) of exact duplicates, 0 across hospitals, 0 in different parts" in warning


def test_the_result_is_plain_json_and_leaves_nothing_out(tmp_path, job):
    folder = healthy(tmp_path / "a")
    (folder / "5.png").write_bytes(b"")
    result = check_hospitals({"a": folder}, job(), quiet)
    content = result.to_dict()
    assert json.loads(json.dumps(content)) == content
    found = content["hospitals"]["a"]
    one = result.hospitals["a"]
    for part, whole in ((content, result), (found, one), (found["classes"]["normal"], one.classes["normal"])):
        assert set(part) == {field.name for field in fields(whole) if field.repr}
    assert list(found["unreadable"]) == ["5.png"]
    assert found["classes"]["normal"]["sizes_px"] == [[96, 80]] * 3
    assert found["classes"]["normal"]["bit_depths"] == {"8": 3}
    assert content["errors"] == list(result.errors)
    assert content["job"] == "test-job"


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_printed(tmp_path, job, broken):
    folder = healthy(tmp_path / "a")
    add(folder, "x.png", "[bold]", "p9", "", picture(90))
    if broken:
        (folder / "0.png").write_bytes(b"")
    result = check_hospitals({"st-marys": folder}, job(other_labels="skip"), quiet)
    printed = printed_of(result)
    assert "96x80" in printed
    assert "warning: st-marys: left out because of their labels: [bold] (1)\n" in printed
    assert ("error: st-marys: 1 unreadable file(s): 0.png" in printed) is broken
    assert f"7 images in 1 hospitals: {int(broken)} errors, 1 warnings" in printed


@pytest.mark.parametrize("word", ["[red]", "[/red]", "[bold]x[/]", ":smile:", "[link=x]"])
def test_markup_in_names_is_printed_as_it_is(tmp_path, word):
    name = word.replace("/", "|")
    contents = [(f"{i}{name}.png", f"{word} {i}", "p1", "", b"no image") for i in range(2)]
    printed = printed_of(check_hospitals({f"st {word}": hospital(tmp_path / "a", contents)}, None, quiet))
    # The name stands in both tables and at the head of the error and of the warning.
    assert printed.count(f"st {word}") == 4
    for i in range(2):
        assert f"{word} {i} " in printed
        assert f"{i}{name}.png (" in printed


def test_a_name_that_is_not_utf8_is_printed_with_question_marks():
    found = HospitalFindings({"\udcfe": ClassFindings(1, 1, (), {8: 1})}, {}, 0, dict.fromkeys(PARTS, 0))
    file = io.TextIOWrapper(io.BytesIO(), "utf-8")
    print_check(CheckResult({"\udcfd": found}, warnings=("near: \udcff.png",)), Console(file=file, width=160))
    file.seek(0)
    assert "warning: near: ?.png" in file.read()


@pytest.mark.slow
def test_six_real_hospitals(shared, job):
    folders = {path.name: path for path in sorted((shared / "data" / "chest_xray").iterdir()) if path.is_dir()}
    start = time.monotonic()
    result = check_hospitals(folders, job(classes=["normal", "pneumonia", "covid19"]), quiet)
    assert time.monotonic() - start < 60.0
    assert result.errors == ()
    assert sum(one.images for found in result.hospitals.values() for one in found.classes.values()) == 3906
    figure1 = result.hospitals["figure1"]
    assert {label: one.images for label, one in figure1.classes.items()} == {"normal": 3, "pneumonia": 2, "covid19": 34}
    assert sum(figure1.images_by_part.values()) == 39
    assert result.exact_duplicates == ()
    assert "nih_clinical_center: 21 patient(s) have images of several labels" in result.warnings
    assert any("near duplicates" in warning for warning in result.warnings)
