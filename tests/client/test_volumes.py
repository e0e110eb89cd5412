"""Series of DICOM files and NIfTI volumes: which slices, in which order, which way up; one study is one example."""

import gzip
from contextlib import suppress

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, extraction_space, fingerprint_of
from client.features import decode, extract
from client.file_digest import digest_of
from client.images import bit_depth, load_image, load_pictures
from client.slices import Reading, chosen
from common.errors import ConfigError, DataError
from common.windows import WINDOWS, Window
from tests.dicom_files import uid, write_dicom, write_series

STACK = (np.arange(9, dtype=np.int16)[:, None, None] * 20 + np.arange(6, dtype=np.int16)[:, None]) * np.ones(
    8, np.int16
)
"""Nine slices of 6 x 8 that all differ."""


def grey(path, **reading):
    return [np.asarray(one) for one in load_pictures(path, Reading(**reading))]


def by_eye(values, centre, width):
    return np.rint(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255).astype(np.uint8)


WIDE = Window(100, 256)


@given(st.integers(1, 500), st.integers(0, 500))
def test_chosen_slices_are_in_order_distinct_and_symmetric(count, slices):
    found = chosen(count, slices)
    assert len(found) == (count if slices == 0 else min(count, slices))
    assert found == sorted(set(found))
    assert 0 <= found[0] <= found[-1] < count
    if slices and slices < count:
        pieces = [range(k * count // slices, -(-(k + 1) * count // slices)) for k in range(slices)]
        assert all(number in piece for number, piece in zip(found, pieces, strict=True))


def test_chosen_by_hand():
    assert (chosen(1, 1), chosen(9, 1), chosen(10, 1), chosen(9, 3), chosen(4, 2)) == ([0], [4], [5], [1, 4, 7], [1, 3])


def test_a_series_is_in_the_order_of_its_positions(tmp_path):
    folder = write_series(tmp_path / "ct", STACK)
    found = grey(folder, window=WIDE, slices=0)
    np.testing.assert_array_equal(found, by_eye(STACK.astype(float), *WIDE))
    np.testing.assert_array_equal(grey(folder, window=WIDE), found[4:5])
    np.testing.assert_array_equal(grey(folder, window=WIDE, slices=3), [found[1], found[4], found[7]])
    assert bit_depth(folder) == 16


def test_without_positions_the_instance_numbers_decide(tmp_path):
    for number, pixels in enumerate(STACK):
        write_dicom(tmp_path / f"{(5 * number) % 9}.dcm", pixels, InstanceNumber=number + 1, SeriesInstanceUID=uid("s"))
    np.testing.assert_array_equal(grey(tmp_path, window=WIDE, slices=0), by_eye(STACK.astype(float), *WIDE))


def test_scouts_are_left_out_and_other_files_passed_over(tmp_path):
    folder = write_series(tmp_path / "ct", STACK)
    write_dicom(
        folder / "scout.dcm", STACK[0].T, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=uid("x")
    )
    (folder / "readme.txt").write_text("text")
    (folder / ".hidden.dcm").write_bytes(b"")
    assert len(grey(folder, slices=0)) == 9


def test_two_series_in_a_folder_are_an_error(tmp_path):
    folder = write_series(tmp_path / "ct", STACK[:3])
    write_dicom(folder / "other.dcm", STACK[3], SeriesInstanceUID=uid("another"))
    with pytest.raises(DataError, match="ct: expected the files of one series, found 2 series"):
        load_image(folder)


def test_a_folder_without_dicom_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*found a folder without DICOM files; correct the path"):
        load_image(tmp_path)


def test_without_any_window_all_chosen_slices_have_one_range(tmp_path):
    folder = write_series(tmp_path / "mr", STACK, modality="MR")
    low, *_, high = grey(folder, slices=0)
    assert (low.min(), low.max(), high.min(), high.max()) == (0, round(5 / 165 * 255), round(160 / 165 * 255), 255)
    (middle,) = grey(folder)
    assert (middle.min(), middle.max()) == (0, 255)


def saved(path, image):
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PSR", "SLP", "AIR"])
def test_a_nifti_volume_looks_the_same_however_it_is_stored(tmp_path, suffix, codes):
    # STACK is (feet to head, front to back, right to left): LPS by (x, y, z).
    volume = nibabel.Nifti1Image(STACK.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.0, 1.0]))
    assert nibabel.aff2axcodes(volume.affine) == ("L", "P", "S")
    turned = volume.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt(("L", "P", "S")), nibabel.orientations.axcodes2ornt(tuple(codes))
        )
    )
    path = saved(tmp_path / f"v{suffix}", turned)
    np.testing.assert_array_equal(grey(path, window=WIDE, slices=0), by_eye(STACK.astype(float), *WIDE))
    np.testing.assert_array_equal(grey(path, window=WIDE, slices=3)[0], by_eye(STACK[1].astype(float), *WIDE))
    assert bit_depth(path) == 16


def test_scaling_and_the_own_window_of_a_nifti_file(tmp_path):
    image = nibabel.Nifti1Image(STACK.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_slope_inter(0.5, -10)
    image.header["cal_min"], image.header["cal_max"] = 0, 51
    path = saved(tmp_path / "v.nii", image)
    values = nibabel.load(path).get_fdata().transpose(2, 1, 0)
    np.testing.assert_array_equal(grey(path, slices=0), np.rint(np.clip(values / 51, 0, 1) * 255))
    np.testing.assert_array_equal(grey(path, slices=0, window=Window(20, 41)), by_eye(values, 20, 41))


def test_of_several_points_in_time_the_first_and_a_flat_file_is_one_slice(tmp_path):
    four = np.stack([STACK.transpose(2, 1, 0), np.zeros((8, 6, 9), np.int16)], axis=-1)
    path = saved(tmp_path / "v.nii.gz", nibabel.Nifti1Image(four, np.diag([-1.0, -1.0, 1.0, 1.0])))
    np.testing.assert_array_equal(grey(path, window=WIDE, slices=0), by_eye(STACK.astype(float), *WIDE))
    flat = saved(tmp_path / "f.nii", nibabel.Nifti1Image(STACK[4].T, np.diag([-1.0, -1.0, 1.0, 1.0])))
    np.testing.assert_array_equal(grey(flat, window=WIDE, slices=0), by_eye(STACK[4:5].astype(float), *WIDE))


def test_eight_bit_numbers_stay_as_they_are_and_no_number_is_black(tmp_path):
    values = np.array([[7, 90], [100, 200]], np.uint8)
    path = saved(tmp_path / "v.nii", nibabel.Nifti1Image(values.T[..., None], np.diag([-1.0, -1.0, 1.0, 1.0])))
    np.testing.assert_array_equal(grey(path)[0], values)
    floats = np.array([[0, np.nan], [1, 2]], np.float32)
    path = saved(tmp_path / "f.nii", nibabel.Nifti1Image(floats.T[..., None], np.diag([-1.0, -1.0, 1.0, 1.0])))
    assert grey(path)[0].tolist() == [[0, 0], [128, 255]]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_volumes_are_refused(tmp_path, suffix):
    path = saved(tmp_path / f"v{suffix}", nibabel.Nifti1Image(STACK.transpose(2, 1, 0), np.eye(4)))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.3, 0.5, 0.8):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=f"v{suffix}"):
            load_image(path)
    for _ in range(60):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, min(352, len(whole)), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        with suppress(DataError):
            assert load_image(path).mode == "L"


def test_a_volume_that_says_it_is_enormous_is_refused_before_memory_is_taken(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((32767, 32767, 32767))
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(tmp_path / "bomb.nii.gz", "wb") as file:
        file.write(header.binaryblock + b"\0" * 4096)
    with pytest.raises(DataError, match=r"bomb\.nii\.gz: expected 1 to .* voxels"):
        load_image(tmp_path / "bomb.nii.gz")


def test_a_study_is_one_example_the_mean_of_its_slices(tmp_path, job, squeezenet, extractor):
    rng = np.random.default_rng(3)
    volume = rng.integers(-1000, 1000, (7, 64, 64)).astype(np.int16)
    folder = write_series(tmp_path / "ct", volume)
    # The same slices as eight-bit pictures, one by one.
    for number, pixels in enumerate(volume):
        Image.fromarray(by_eye(pixels.astype(float), *WINDOWS["bone"])).save(tmp_path / f"{number}.png")

    def vectors(paths, **image):
        one = job(modality="chest-ct", image={"size": 64, **image})
        space = extraction_space(one, squeezenet.digest)
        with FeatureCache(tmp_path / "cache", space, all_blocks("squeezenet1_1")[-1].stop) as cache:
            found = extract([(path, [0, -1]) for path in paths], extractor, cache, one)
        assert all(rows.shape == (2, one.num_features) for rows in found.vectors)
        return np.stack(found.vectors), found

    single, _ = vectors([tmp_path / f"{number}.png" for number in range(7)])
    for slices, wanted in (("middle", [3]), (3, [1, 3, 5]), ("all", range(7))):
        study, first = vectors([folder], window="bone", slices=slices)
        np.testing.assert_allclose(study[0], single[list(wanted)].mean(axis=0), rtol=1e-4, atol=1e-5)
        again, second = vectors([folder], window="bone", slices=slices)
        assert np.array_equal(study, again)
        assert (first.decoded, second.decoded, second.cached) == (1, 0, 1)


def test_the_network_input_of_a_study_is_its_slices(tmp_path, job):
    folder = write_series(tmp_path / "ct", STACK)
    found = decode(folder, (digest_of(folder), 1), job(image={"size": 64, "slices": 3}))
    assert found.shape == (3, 3, 64, 64)
    assert torch.from_numpy(found).dtype == torch.uint8


def test_the_digest_of_a_series_is_of_its_content(tmp_path):
    folder = write_series(tmp_path / "ct", STACK)
    before = digest_of(folder)
    (folder / "003.dcm").rename(folder / "zzz.dcm")
    assert digest_of(folder) == before
    (folder / "zzz.dcm").unlink()
    assert digest_of(folder) != before


def test_window_and_slices_make_another_feature_space_and_their_absence_the_one_of_before(job):
    old = fingerprint_of(job(), "ab" * 32)
    assert fingerprint_of(job(image={"size": 64, "slices": "middle", "window": None}), "ab" * 32) == old
    assert fingerprint_of(job(image={"size": 64, "slices": 1}), "ab" * 32) == old
    others = [{"slices": 3}, {"slices": "all"}, {"window": "lung"}, {"window": "bone"}, {"window": [0, 100]}]
    found = {fingerprint_of(job(image={"size": 64, **other}), "ab" * 32) for other in others}
    assert len(found | {old}) == 6
    named = fingerprint_of(job(image={"size": 64, "window": [-600, 1500]}), "ab" * 32)
    assert named == fingerprint_of(job(image={"size": 64, "window": "lung"}), "ab" * 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": {"window": "lungs"}}, "unknown window 'lungs'; did you mean 'lung'"),
        ({"image": {"window": [40, 0]}}, "width of 1 or more"),
        ({"image": {"window": [40]}}, r"\[centre, width\]"),
        ({"image": {"window": [40, True]}}, r"\[centre, width\]"),
        ({"image": {"slices": "midle"}}, "unknown slices 'midle'; did you mean 'middle'"),
        ({"image": {"slices": 0}}, "image.slices"),
        ({"image": {"slices": True}}, "expected a number"),
        ({"image": {"window": "lung"}, "modality": "brain-mri"}, "image.window: the presets are in Hounsfield units"),
        ({"image": {"slices": 3}, "tune": "last-blocks"}, "image.slices: .*goes with tune: head"),
    ],
)
def test_wrong_choices_are_refused_with_the_reason(job, changes, words):
    changes["image"] = {"size": 64, **changes["image"]}
    with pytest.raises(ConfigError, match=words):
        job(**changes)


def test_jobs_without_the_new_keys_keep_their_ids(job):
    assert "window" not in job().canonical_json()
    assert "slices" not in job().canonical_json()
    assert '"window":"lung"' in job(image={"size": 64, "window": "lung"}).canonical_json()


def test_what_was_cached_for_another_modality_is_refused_all_the_same(tmp_path, job, squeezenet, extractor):
    path = write_dicom(tmp_path / "a.dcm", STACK[0], Modality="MR")

    def extraction(modality, **options):
        one = job(modality=modality)
        with FeatureCache(
            tmp_path / "cache", extraction_space(one, squeezenet.digest), all_blocks("squeezenet1_1")[-1].stop
        ) as cache:
            return extract([(path, [0])], extractor, cache, one, **options)

    assert extraction("other").decoded == 1
    assert extraction("brain-mri").cached == 1
    with pytest.raises(DataError, match=r"a\.dcm: expected an image of modality chest-ct .* found MR"):
        extraction("chest-ct")
    assert extraction("chest-ct", skip_unreadable=True).vectors == [None]
