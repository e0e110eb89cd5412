"""What a de-identified copy holds, and that a copy which holds more is not made."""

import io
import tempfile
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian

from client import deidentify as module
from client import deidentify_rules as rules
from client.deidentify import Copy, Reason, Refused, deidentify, likely_burned_in
from client.deidentify_check import Expected, problems
from client.importing_facts import Facts, age_band, read_facts
from client.importing_files import find_files
from client.pseudonyms import pseudonym, uid_pseudonym
from client.quiet_pydicom import quiet_pydicom
from tests.client.dicom_originals import SECRETS, as_bytes, original, private_tags, reread

SALT = bytes(range(32))
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def copied(dataset: Dataset, **options) -> Dataset:
    found = deidentify(reread(dataset), SALT, **options)
    assert isinstance(found, Copy), found
    return pydicom.dcmread(io.BytesIO(found.data))


def test_nothing_that_identifies_is_in_the_bytes_of_a_copy():
    before = original()
    content = as_bytes(before)
    found = deidentify(reread(before), SALT)
    assert isinstance(found, Copy)
    for secret in SECRETS:
        assert secret.encode() in content
        assert secret.encode().lower() not in found.data.lower()


def test_a_copy_says_what_it_is_and_keeps_what_images_need():
    before, copy = original(), copied(original())
    assert copy.PatientIdentityRemoved == "YES"
    assert copy.DeidentificationMethod == rules.METHOD
    assert len(rules.METHOD) <= 64
    assert copy.PatientID == pseudonym(SALT, "MRN-4711")
    assert copy.PatientName == ""
    assert copy.PixelData == before.PixelData
    for keyword in (
        "Rows",
        "BitsStored",
        "Modality",
        "BodyPartExamined",
        "Manufacturer",
        "SliceThickness",
        "ImageType",
        "SOPClassUID",
    ):
        assert copy[keyword].value == before[keyword].value, keyword
    assert copy.ImagePositionPatient == before.ImagePositionPatient
    assert copy.AnatomicRegionSequence[0].CodeValue == "T-D3000"
    assert private_tags(copy) == 0
    assert copy.preamble == bytes(128)


def test_the_copy_of_a_series_is_a_series():
    one, two = copied(original(number=1)), copied(original(number=2))
    other = copied(original(study="1.2.3.4.2", series="1.2.3.4.2.1", patient="MRN-2"))
    assert one.SeriesInstanceUID == two.SeriesInstanceUID == uid_pseudonym(SALT, "1.2.3.4.1.1")
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.SourceImageSequence[0].ReferencedSOPInstanceUID == two.SOPInstanceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    assert {other.StudyInstanceUID, other.SeriesInstanceUID}.isdisjoint({one.StudyInstanceUID, one.SeriesInstanceUID})
    assert one.PatientID == two.PatientID != other.PatientID
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in (one.StudyInstanceUID, one.SOPInstanceUID))


def test_a_copy_of_a_copy_is_another_copy_of_the_same_pixels():
    once = copied(original())
    twice = copied(once)
    assert twice.SOPInstanceUID != once.SOPInstanceUID
    assert twice.PixelData == once.PixelData


def test_every_bundled_file_is_copied_and_verified_or_refused_with_a_reason(tmp_path):
    reasons = {}
    for found in find_files([BUNDLED], tmp_path):
        read = found.read()
        if isinstance(read, Refused):
            reasons[found.path.name] = read.reason
            continue
        with quiet_pydicom():
            before = private_tags(read) if found.path.name == "CT_small.dcm" else 0
        pixels = next((read[word].value for word in rules.PIXELS if word in read), None)
        copy = deidentify(read, SALT, allow_burned_in=True)
        reasons[found.path.name] = copy.reason if isinstance(copy, Refused) else None
        if isinstance(copy, Copy):
            with quiet_pydicom():
                after = pydicom.dcmread(io.BytesIO(copy.data))
                assert private_tags(after) == 0
            assert next(after[word].value for word in rules.PIXELS if word in after) == pixels
        if found.path.name == "CT_small.dcm":
            assert before == 179
    assert reasons["CT_small.dcm"] is None
    assert reasons["rtplan.dcm"] is Reason.NO_PIXELS
    assert reasons["README.txt"] is Reason.NOT_DICOM
    assert sum(reason is None for reason in reasons.values()) >= 40
    assert Reason.NOT_VERIFIED not in reasons.values()


TEXTS = {
    **dict.fromkeys(("LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), "Zyxwv{}q"),
    "AE": "ZYXWV{}Q",
    "AS": "09{}Y",
    "DA": "1907070{}",
    "DT": "1907070{}131415.161718",
    "TM": "131415.16171{}",
}
STRUCTURE = (0x0020000D, 0x0020000E, 0x00100020, 0x00080016, 0x00080018, 0x00080005)
ALL_TAGS = [
    tag
    for tag in DicomDictionary
    if tag >> 16 not in (0x0000, 0x0002, 0x0004, 0x0006, 0x0028, 0x7FE0) and tag not in STRUCTURE
]
SEQUENCES = [tag for tag in ALL_TAGS if DicomDictionary[tag][0] == "SQ"]
FREE = [tag for tag in ALL_TAGS if DicomDictionary[tag][0] in rules.TEXT and tag not in rules.KEPT_TEXT]
LEAF = st.tuples(
    st.one_of(
        st.sampled_from(FREE),
        st.sampled_from([tag for tag in ALL_TAGS if tag not in rules.KEPT_TEXT]),
        st.builds(
            lambda group, element: (group * 2 + 1) << 16 | element, st.integers(4, 0x7FF0), st.integers(0x1000, 0xFFFF)
        ),
        st.builds(
            lambda group, element: group * 2 << 16 | element, st.integers(0x40, 0x3000), st.integers(0x9000, 0xFFFF)
        ),
    ),
    st.sampled_from(sorted(TEXTS)),
    st.integers(0, 9),
)
ITEM = st.recursive(
    st.lists(LEAF, min_size=1, max_size=4),
    lambda deeper: st.lists(
        st.one_of(LEAF, st.tuples(st.sampled_from([*SEQUENCES, 0x00091001]), deeper)), min_size=1, max_size=4
    ),
    max_leaves=12,
)


def add(dataset: Dataset, content, implicit: bool) -> list[str]:
    """Put random tags, nested as drawn, into a dataset; returns the texts in them.

    implicit: the file does not say how a tag is represented, so under a tag that holds numbers or code strings there is no text.
    """
    texts = []
    for one in content:
        if len(one) == 2:
            item = Dataset()
            texts += add(item, one[1], implicit)
            dataset.add_new(one[0], "SQ", Sequence([item]))
        else:
            tag, vr, digit = one
            if implicit and rules.known_vr(tag) not in (None, *rules.TEXT):
                continue
            texts.append(TEXTS[vr].format(digit))
            dataset.add_new(tag, vr, texts[-1])
    return texts


def check_that_nothing_survives(content, implicit):
    dataset = original()
    with quiet_pydicom():
        texts = add(dataset, content, implicit)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    found = deidentify(reread(dataset), SALT, allow_burned_in=True)
    assert isinstance(found, Copy), found
    for text in texts:
        assert text.encode().lower() not in found.data.lower()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ITEM, st.booleans())
def test_random_text_and_dates_never_survive(content, implicit):
    check_that_nothing_survives(content, implicit)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ITEM, st.booleans())
def test_random_text_and_dates_never_survive_at_length(content, implicit):
    check_that_nothing_survives(content, implicit)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1700), st.integers(0, 255)), min_size=1, max_size=8), st.integers(200, 4000))
def test_random_damage_gives_a_copy_or_a_reason_and_nothing_else(changes, length):
    content = bytearray(as_bytes(original()))
    for place, byte in changes:
        content[place % len(content)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "IM1"
        path.write_bytes(content[:length])
        found = find_files([path], Path(folder) / "out")[0]
        assert isinstance(found.look(), Facts | Refused)
        read = found.read()
        copy = read if isinstance(read, Refused) else deidentify(read, SALT, allow_burned_in=True)
    assert isinstance(copy, Copy | Refused)
    if isinstance(copy, Copy):
        with quiet_pydicom():
            assert private_tags(pydicom.dcmread(io.BytesIO(copy.data))) == 0


def test_the_list_of_text_that_stays_is_short():
    assert {keyword_for_tag(tag) for tag in rules.KEPT_TEXT} == {
        *("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "RescaleType", "ModalityLUTType"),
        *("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion"),
    }


def test_even_text_that_stays_goes_if_it_names_what_identifies():
    copy = copied(
        original(Manufacturer="Anywhere Imaging", BodyPartExamined="RICHARD", ManufacturerModelName="Scanner 3")
    )
    assert "Manufacturer" not in copy
    assert "BodyPartExamined" not in copy
    assert copy.ManufacturerModelName == "Scanner 3"


def test_a_code_string_that_is_none_goes():
    dataset = original()
    dataset.add(pydicom.DataElement(0x00185100, "CS", "Jane's supine", validation_mode=pydicom.config.IGNORE))
    assert "PatientPosition" not in copied(dataset)


def test_other_bytes_and_values_of_unknown_kind_go():
    dataset = original(ICCProfile=b"profile of Jane.")
    dataset.add_new(0x00181260, "UN", b"UN plate 1")
    dataset.AnatomicRegionSequence[0].add_new(0x7FE00010, "OB", b"icon with a name")
    copy = copied(dataset)
    assert "PixelData" not in copy.AnatomicRegionSequence[0]
    assert "ICCProfile" not in copy
    assert 0x00181260 not in copy


def test_a_uid_that_only_looks_like_one_of_dicom_is_replaced():
    copy = copied(original(FrameOfReferenceUID="1.2.840.10008.19700203", SourceImageSequence=[]))
    assert copy.FrameOfReferenceUID == uid_pseudonym(SALT, "1.2.840.10008.19700203")
    assert copied(original(FrameOfReferenceUID="1.2.840.10008.1.4.1.1")).FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    dataset = original()
    dataset.add_new(0x0008010C, "UI", "1.2.840.10008.2.16.4")
    assert 0x0008010C in copied(dataset)
    assert not [element for element in copied(dataset) if element.tag.group == 0x6000]


def expected_of(dataset: Dataset) -> Expected:
    return Expected(
        pseudonym(SALT, "MRN-4711"),
        uid_pseudonym(SALT, dataset.SOPInstanceUID),
        "PixelData",
        dataset.PixelData,
        *rules.what_identifies(dataset),
    )


def nested(keyword, value):
    def tamper(copy):
        item = Dataset()
        setattr(item, keyword, value)
        copy.AnatomicRegionSequence = Sequence([item])

    return tamper


TAMPERED = {
    "private tag": lambda copy: copy.private_block(0x0009, "ACME", create=True),
    "private tag (0011": lambda copy: copy.SourceImageSequence[0].private_block(0x0011, "ACME", create=True),
    "PatientName has a value": lambda copy: setattr(copy, "PatientName", "DOE^Jane"),
    "StudyDate has a value": lambda copy: setattr(copy, "StudyDate", "20260115"),
    "PatientAge has a value": lambda copy: setattr(copy, "PatientAge", "055Y"),
    "PatientWeight has a value": lambda copy: setattr(copy, "PatientWeight", "70"),
    "AccessionNumber has a value": nested("AccessionNumber", "ACC-0815"),
    "FilterType has text": nested("FilterType", "remark"),
    "names what identifies": lambda copy: setattr(copy, "Manufacturer", "Roe & Richard"),
    "is no code string": lambda copy: setattr(copy, "BodyPartExamined", "RICHARD"),
    "has a UID of the original": nested("ReferencedSOPInstanceUID", "1.2.3.4.1.1.1"),
    "PatientID has a value": nested("PatientID", "MRN-4711"),
    "unknown tag": lambda copy: copy.add_new(0x0018FFF0, "US", 7),
    "PixelData has bytes": lambda copy: copy.SourceImageSequence[0].add_new(0x7FE00010, "OB", b"icon"),
    "ICCProfile has bytes": lambda copy: setattr(copy, "ICCProfile", b"profile1"),
    "the pixel data differ": lambda copy: setattr(copy, "PixelData", bytes(len(copy.PixelData))),
    "the pseudonyms are not in it": lambda copy: setattr(copy, "PatientID", "0" * 32),
    "does not say": lambda copy: setattr(copy, "PatientIdentityRemoved", "NO"),
    "the preamble is not empty": lambda copy: setattr(copy, "preamble", b"DOE Jane".ljust(128)),
    "file meta information": lambda copy: setattr(copy.file_meta, "SourceApplicationEntityTitle", "GATEWAY9"),
}


@pytest.mark.parametrize("problem", TAMPERED)
def test_the_second_look_finds_what_was_left(problem):
    copy = copied(original())
    assert problems(as_bytes(copy), expected_of(original())) == []
    TAMPERED[problem](copy)
    found = problems(as_bytes(copy), expected_of(original()))
    assert any(problem in one for one in found), found
    assert not any(secret in one for secret in SECRETS for one in found)


def test_a_copy_that_does_not_verify_is_not_made(monkeypatch):
    monkeypatch.setattr(module, "clean", lambda *_: None)
    found = deidentify(reread(original()), SALT)
    assert isinstance(found, Refused)
    assert found.reason is Reason.NOT_VERIFIED
    assert not any(secret in found.detail for secret in SECRETS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PatientID": ""}, Reason.NO_PATIENT),
        ({"PatientID": "  "}, Reason.NO_PATIENT),
        ({"SeriesInstanceUID": ""}, Reason.NO_UID),
        ({"PixelData": b"\0\1"}, Reason.CUT_OFF),
        ({"PixelData": bytes(128) + b"DOE^Jane"}, Reason.TOO_LONG),
        ({"Rows": 0}, Reason.NO_PIXELS),
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"Modality": "US"}, Reason.BURNED_IN),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, Reason.BURNED_IN),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.BURNED_IN),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, Reason.BURNED_IN),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Reason.BURNED_IN),
    ],
)
def test_what_is_refused_and_why(changes, reason):
    found = deidentify(reread(original(**changes)), SALT)
    assert isinstance(found, Refused)
    assert found.reason is reason
    if reason is Reason.BURNED_IN:
        assert found.detail == likely_burned_in(original(**changes))
        assert isinstance(deidentify(reread(original(**changes)), SALT, allow_burned_in=True), Copy)


@pytest.mark.parametrize(
    ("age", "born", "study", "band"),
    [
        ("055Y", "", "", "40-59"),
        ("079Y", "", "", "60-79"),
        ("080Y", "", "", "80+"),
        ("103Y", "", "", "80+"),
        ("011M", "", "", "0-17"),
        ("230M", "", "", "18-39"),
        ("400D", "", "", "0-17"),
        ("", "19700203", "20100202", "18-39"),
        ("", "19700203", "20100203", "40-59"),
        ("", "20300101", "20260101", ""),
        ("", "1970", "20260101", ""),
        ("", "", "", ""),
    ],
)
def test_age_bands(age, born, study, band):
    assert age_band(original(PatientAge=age, PatientBirthDate=born, StudyDate=study)) == band


def test_facts_of_an_image():
    facts = read_facts(original(PatientSex="x"))
    assert (facts.patient_id, facts.accession, facts.sex, facts.age_band) == ("MRN-4711", "ACC-0815", "", "40-59")
