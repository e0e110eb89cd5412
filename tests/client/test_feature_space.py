import re

from client.augmentation import mirrored, upright
from client.feature_space import fingerprint_of, views_of


def test_a_feature_space_is_backbone_weights_fit_size_and_stages(job):
    spaces = [
        fingerprint_of(job(), "d" * 64),
        fingerprint_of(job(), "e" * 64),
        fingerprint_of(job(image={"size": 64, "fit": "crop"}), "d" * 64),
        fingerprint_of(job(image={"size": 96}), "d" * 64),
        fingerprint_of(job(backbone={"name": "squeezenet1_0", "weights": "random"}), "d" * 64),
        fingerprint_of(job(features={"stages": "all", "pool": ["mean", "max"]}), "d" * 64),
        fingerprint_of(job(features={"stages": "all", "pool": ["mean"]}), "d" * 64),
        fingerprint_of(job(features={"stages": ["features.7", "output"]}), "d" * 64),
        fingerprint_of(job(features={"pool": ["max"]}), "d" * 64),
        fingerprint_of(job(features={"mirror": True}, modality="chest-xray"), "d" * 64),
    ]
    assert len(set(spaces)) == len(spaces)
    assert all(re.fullmatch("[0-9a-f]{64}", space) for space in spaces)


def test_a_feature_space_is_not_seed_method_or_views(job):
    same = [job(), job(seed=8), job(method={"name": "fedprox"}), job(features={"views": 4}), job(name="other")]
    assert len({fingerprint_of(one, "d" * 64) for one in same}) == 1


def test_the_size_a_backbone_has_by_itself_is_the_same_space_when_written_out(job):
    assert fingerprint_of(job(image={}), "d" * 64) == fingerprint_of(job(image={"size": 224}), "d" * 64)


def test_stages_written_out_are_the_same_space_as_their_word(job):
    one, two = job(features={"stages": ["output"], "pool": ["mean"]}), job(features={"stages": "last"})
    assert fingerprint_of(one, "d" * 64) == fingerprint_of(two, "d" * 64)
    assert one.job_id != two.job_id


def test_views_of_training_images_each_have_their_mirror_image(job):
    mirroring = job(modality="chest-xray", features={"mirror": True, "views": 2})
    assert views_of(mirroring, "train") == [0, -1, 1, -2]
    assert views_of(mirroring, "validation") == views_of(mirroring, "test") == [0, -1]
    assert views_of(job(features={"views": 3}), "train") == [0, 1, 2]
    assert views_of(job(features={"views": 3}), "test") == [0]
    assert [upright(view) for view in (0, -1, 1, -2)] == [0, 0, 1, 1]
    assert all(mirrored(mirrored(view)) == view for view in (-3, 0, 5))
