"""Importing from folders: what is written, what stays, and what is there after a process was killed."""

import csv
import os
import stat

import pydicom
import pytest

from client.importing import Options, opened
from client.importing_files import find_files
from client.importing_journal import JOURNAL
from client.importing_labels import Labels, read_labels
from client.manifest import read_manifest
from common.errors import ConfigError, DataError, StorageError
from tests.client.dicom_originals import SECRETS, as_bytes, original, private_tags
from tests.small_disk import on_a_small_disk


@pytest.fixture
def source(tmp_path):
    """Two patients, two series, five images without suffix, and a text."""
    folder = tmp_path / "originals"
    for patient, study, count in (("MRN-4711", "1.2.3.4.1", 3), ("MRN-2", "1.2.3.4.2", 2)):
        (folder / patient).mkdir(parents=True)
        for number in range(count):
            image = original(patient, study, f"{study}.1", number + 1, AccessionNumber=f"A{study[-1]}")
            (folder / patient / f"IM{number}").write_bytes(as_bytes(image))
    (folder / "readme.txt").write_text("no image")
    return folder


def run(source, out, salt=None, **options):
    with opened(out, salt or out.parent / "salt") as importer:
        return importer.run(find_files([source], out), Options(**options))


def copies(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.suffix == ".dcm"}


def rows(out):
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_copies_and_a_manifest(source, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    result = run(source, out, labels=Labels("normal"))
    assert (result.written, result.already_there, result.num_refused, result.not_dicom, result.unlabelled) == (
        5,
        0,
        0,
        1,
        0,
    )
    manifest = read_manifest(out / "manifest.csv")
    assert [row.path.is_file() for row in manifest] == [True] * 5
    assert {row.label for row in manifest} == {"normal"}
    assert sorted(
        [row.patient_id for row in manifest].count(patient) for patient in {row.patient_id for row in manifest}
    ) == [2, 3]
    assert sorted(len(list(folder.iterdir())) for folder in out.glob("*/*")) == [2, 3]
    assert all(private_tags(pydicom.dcmread(row.path)) == 0 for row in manifest)
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.rglob("*") if path.is_file()
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert not any(secret.encode() in everything for secret in SECRETS)
    assert not any(secret in str(path) for secret in SECRETS for path in out.rglob("*"))


def test_importing_again_changes_nothing(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in out.rglob("*") if path.suffix == ".dcm"}
    journal = (out / JOURNAL).read_bytes()
    result = run(source, out)
    assert (result.written, result.already_there) == (0, 5)
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in out.rglob("*") if path.suffix == ".dcm"}
    assert journal == (out / JOURNAL).read_bytes()
    assert len(rows(out)) == 5


def test_the_same_image_twice_is_one_copy(source, tmp_path):
    (source / "again").write_bytes((source / "MRN-2" / "IM0").read_bytes())
    result = run(source, tmp_path / "out")
    assert (result.written, result.already_there) == (5, 1)


def test_a_copy_that_was_removed_comes_back(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    path = next(out.rglob("*.dcm"))
    path.unlink()
    assert run(source, out).written == 1
    assert path.is_file()


def test_labels_come_from_study_accession_number_or_path(source, tmp_path):
    file = tmp_path / "labels.csv"
    for text, labelled in (
        ("StudyInstanceUID,label\n1.2.3.4.1,sick\n", 3),
        ("accessionnumber,Label\nA2,sick\n", 2),
        ("path,label\noriginals/MRN-2,sick\noriginals/MRN-4711/IM0,sick\n", 3),
    ):
        file.write_text(text)
        out = tmp_path / f"out{labelled}{len(text)}"
        result = run(source, out, labels=read_labels(file))
        assert [row["label"] for row in rows(out)].count("sick") == labelled
        assert result.unlabelled == 5 - labelled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study,label\n1,x\n", "expected a column 'label' and one of StudyInstanceUID"),
        ("path\nx\n", "the columns are: path"),
        ("accessionnumber,label\nA1,x\nA1,y\n", "line 3: a second label for the same accessionnumber"),
        ("\udce4", "UTF-8"),
    ],
)
def test_a_list_of_labels_that_cannot_be_used_is_an_error(tmp_path, text, message):
    file = tmp_path / "labels.csv"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_labels(file)
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "none.csv")


def test_labels_and_columns_that_people_typed_stay(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    typed = rows(out)
    typed[0]["label"] = "typed"
    with (out / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "patient_id", "split"], restval="test")
        writer.writeheader()
        writer.writerows([*typed, {"path": "own.png", "label": "own", "patient_id": "p"}])
    (source / "MRN-2" / "new").write_bytes(as_bytes(original("MRN-2", "1.2.3.4.2", "1.2.3.4.2.1", 9)))
    assert run(source, out).written == 1
    found = {row["path"]: row for row in rows(out)}
    assert found[typed[0]["path"]]["label"] == "typed"
    assert found[typed[0]["path"]]["split"] == "test"
    assert found["own.png"]["label"] == "own"
    assert len(found) == 7
    run(source, out, labels=Labels("told"))
    assert [row["label"] for row in rows(out)].count("told") == 6
    (out / "manifest.csv").write_text("nothing\n1\n")
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        run(source, out)


def test_sex_and_age_band_are_in_the_manifest_if_asked_for_and_never_in_copies(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    assert set(rows(out)[0]) == {"path", "label", "patient_id"}
    assert b"40-59" not in (out / JOURNAL).read_bytes()
    run(source, out, keep_sex_age=True)
    assert {(row["sex"], row["age_band"]) for row in rows(out)} == {("F", "40-59")}
    assert all(pydicom.dcmread(path).PatientSex == "" for path in out.rglob("*.dcm"))


class KilledError(BaseException):
    pass


def test_killed_at_any_moment_only_whole_files_are_there_and_the_rest_comes_later(source, tmp_path, monkeypatch):
    salt = tmp_path / "salt"
    source = source / "MRN-2"
    run(source, tmp_path / "whole", salt)
    whole = copies(tmp_path / "whole")
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    moments = 0
    for moment in range(40):
        calls = 0

        def counted(name, *arguments, moment=moment):
            nonlocal calls
            calls += 1
            if calls > moment:  # from here on this process does nothing more
                raise KilledError
            return real[name](*arguments)

        out = tmp_path / f"killed{moment}"
        for name in real:
            monkeypatch.setattr(os, name, lambda *arguments, name=name: counted(name, *arguments))
        try:
            run(source, out, salt)
            finished = True
        except KilledError:
            finished = False
        for name, function in real.items():
            monkeypatch.setattr(os, name, function)
        assert copies(out).items() <= whole.items()
        result = run(source, out, salt)
        assert copies(out) == whole
        assert result.written + result.already_there == 2
        assert len(rows(out)) == 2
        if finished:
            break
        moments += 1
    assert finished
    assert moments >= 8


def test_what_a_killed_process_leaves_half_written_goes(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    journal = (out / JOURNAL).read_bytes()
    (out / JOURNAL).write_bytes(journal[:-20])
    path = next(out.rglob("*.dcm"))
    half = path.with_name(f".{path.name}.abcdefgh")
    half.write_bytes(path.read_bytes()[:100])
    result = run(source, out)
    assert (result.written, result.already_there) == (1, 4)
    assert not half.exists()
    assert len((out / JOURNAL).read_bytes()) == len(journal)


def test_a_folder_is_imported_into_with_its_own_salt_by_one_process(source, tmp_path):
    out = tmp_path / "out"
    with opened(out, tmp_path / "salt"), pytest.raises(ConfigError, match="another process imports"):
        run(source, out)
    run(source, out)
    with pytest.raises(ConfigError, match="another salt"):
        run(source, out, tmp_path / "other")
    with pytest.raises(ConfigError, match="lies in --out"):
        run(source, out, out / "salt")
    with pytest.raises(ConfigError, match="not empty"):
        run(source, source / "MRN-2")
    (out / JOURNAL).write_bytes(b"{}\n")
    with pytest.raises(DataError, match="damaged"):
        run(source, out)


def test_sources_and_copies_are_apart(source, tmp_path):
    out = source / "copies"
    assert run(source, out, tmp_path / "salt").written == 5
    assert run(source, out, tmp_path / "salt").already_there == 5
    with pytest.raises(ConfigError, match="lies in --out"):
        find_files([source, out], out)
    with pytest.raises(ConfigError, match="is not there"):
        find_files([tmp_path / "none"], out)


def test_nothing_above_debug_names_a_patient_or_a_file(source, tmp_path, caplog, capfd):
    (source / "MRN-2" / "odd").write_bytes(as_bytes(original(number=7, PixelData=b"\0\1")))
    damaged = (
        as_bytes(original(number=8))
        .replace(b"20260115", b"DOEXJane")
        .replace(b"MRN-2", b"\1DOEX")
        .replace(b"ACC-0815", b"DOEX" * 2)
    )
    (source / "MRN-2" / "damaged").write_bytes(damaged)
    with caplog.at_level("INFO"):
        run(source, tmp_path / "out")
    said = caplog.text + "".join(capfd.readouterr())
    assert not any(word in said for word in (*SECRETS, "DOEX", "IM0", str(source)))


def test_a_file_that_cannot_be_read_is_refused(source, tmp_path, monkeypatch):
    found = find_files([source], tmp_path / "out")
    (source / "MRN-2" / "IM0").unlink()
    with opened(tmp_path / "out", tmp_path / "salt") as importer:
        result = importer.run(found, Options())
    assert (result.written, result.num_refused) == (4, 1)


def test_a_folder_that_cannot_be_read_is_an_error(source, tmp_path, monkeypatch):
    scandir = os.scandir

    def closed(folder):
        if str(folder).endswith("MRN-2"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"cannot look into .*MRN-2: Permission denied"):
        find_files([source], tmp_path / "out")


def test_a_full_disk_is_an_error_and_leaves_whole_files(tmp_path):
    source = tmp_path / "originals"
    source.mkdir()
    for number in range(12):
        (source / f"IM{number}").write_bytes(as_bytes(original(number=number + 1, size_px=160)))
    done = on_a_small_disk(
        tmp_path / "disk",
        400,
        f"""
        import pathlib, pydicom
        from client.importing import Options, opened
        from client.importing_files import find_files
        out = pathlib.Path(folder) / "out"
        try:
            with opened(out, pathlib.Path({str(tmp_path)!r}) / "salt") as importer:
                importer.run(find_files([pathlib.Path({str(source)!r})], out), Options())
        except Exception as error:
            print(type(error).__name__, error)
        found = list(out.rglob("*.dcm"))
        print(len(found), all(len(pydicom.dcmread(one).PixelData) == 51200 for one in found), list(out.rglob(".*.dcm.*")))
        """,
    )
    assert "StorageError" in done.stdout, done.stderr
    assert "No space left on device; what is imported stays" in done.stdout
    count, whole, partial = done.stdout.splitlines()[-1].split(" ", 2)
    assert 2 <= int(count) < 12
    assert (whole, partial) == ("True", "[]")


def test_storage_errors_have_exit_code_seven():
    assert StorageError.exit_code == 7
