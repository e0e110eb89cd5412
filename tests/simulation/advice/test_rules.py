"""The rules of advice as pure functions: what they recommend, and the reasons they give."""

import numpy as np
import pytest
import torchvision

from common.job import parse_job
from simulation.advice.rules import RULES, advise
from simulation.advice.situation import Data, HospitalData, Machine, Measured, Situation, WeightsFile
from simulation.advice.speed import GIGA_OPERATIONS, pass_seconds, sums_bytes

FILE = {"file": "net.safetensors", "sha256": "a" * 64}
CPU = Machine("cpu", cores=2, ram_gb=16, disk_free_gb=100, images_per_s=75)
GPU = Machine("cuda", gpu_memory_gb=16, cores=16, disk_free_gb=500, images_per_s=900, stated=True)
CHEST = {"nih": (350, 336), "guangzhou": (680, 750), "actualmed": (10, 0), "figure1": (2, 2)}
"""Training images by class, as configs/chest_xray.yaml has them."""


def hospital(name, train, split_given=False, side_px=256):
    """A hospital with these training images by class, a tenth as many for validation, a fifth for the test."""
    images = (tuple(train), tuple(number // 10 for number in train), tuple(number // 5 for number in train))
    return HospitalData(name, images, tuple(sum(part) for part in images), split_given, side_px)


def situation(train, machine=CPU, backbone="mobilenet_v2", weights=FILE, at_hand=(), measured=(), side_px=256, **job):
    content = {
        "name": "test-job",
        "classes": [f"class {number}" for number in range(len(next(iter(train.values()))))],
        "modality": "chest-xray",
        "backbone": {"name": backbone, "weights": weights},
        **job,
    }
    data = Data(tuple(hospital(name, counts, side_px=side_px) for name, counts in train.items()))
    files = tuple(WeightsFile(name, f"{name}.safetensors", "b" * 64) for name in at_hand)
    return Situation(parse_job(content), data, dict.fromkeys(train, machine), files, tuple(measured))


def advised(found, kind="recommended"):
    """The advice of one kind by key."""
    return {one.key: one for one in advise(found) if one.kind == kind}


def values(found):
    return {key: one.value for key, one in advised(found).items()}


# The three federations that the issue names.


def test_chest_x_rays_on_cpus_get_the_closed_form_of_all_stages():
    found = situation(CHEST)
    advice, avoided = advised(found), advised(found, "avoid")
    assert advice["method.name"].value == "analytic"
    assert "actualmed has one class only" in advice["method.name"].reason
    assert "358 times" in advice["method.name"].reason
    assert "2406.01116" in advice["method.name"].source
    assert advice["tune.part"].value == "head"
    assert "no GPU" in advice["tune.part"].reason
    assert advice["features.stages"].value == "all"
    assert "1,816 features instead of 1,280 for 2,130 training images" in advice["features.stages"].reason
    assert "6.6 MB" in advice["features.stages"].reason
    assert advice["backbone.name"].value == "mobilenet_v2"
    assert advice["quorum.min_hospitals"].value == 3
    assert "method.ridge" not in advice
    assert avoided["method.name"].value == "krum"
    assert "0.41" in avoided["method.name"].source


def test_ten_images_a_hospital_get_one_strong_ridge_and_a_warning():
    found = situation({"a": (4, 3), "b": (3, 4), "c": (4, 3)}, backbone="squeezenet1_1", weights="random")
    advice, notes = advised(found), advised(found, "note")
    assert values(found)["features.stages"] == "last"
    assert "21 training images against 512 features" in advice["features.stages"].reason
    assert advice["method.ridge"].value == (1.0,)
    assert "0 validation patients" in advice["method.ridge"].reason
    assert advice["tune.part"].value == "head"
    assert advice["evaluation.validation_fraction"].value == 0.25
    assert "read the intervals" in notes["evaluation.test_fraction"].reason
    assert "random" in advice["backbone.name"].reason


def test_gpus_and_many_images_get_the_last_blocks_from_the_closed_form():
    found = situation({"a": (2000, 1800), "b": (1500, 1600)}, GPU, backbone="densenet121")
    advice, notes = advised(found), advised(found, "note")
    assert advice["backbone.name"].value == "densenet121"
    assert "every hospital has a GPU" in advice["backbone.name"].reason
    assert advice["tune.part"].value == "last-blocks"
    assert "3,400 training images of the rarest class" in advice["tune.part"].reason
    assert "16 GB" in advice["tune.part"].reason
    assert advice["method.name"].value == "fedavg"
    assert "alike" in advice["method.name"].reason
    assert advice["method.warm_start"].value == "analytic"
    assert "about 13 s" in advice["method.rounds"].reason
    assert "allow the head only" in notes["policy.allow_tuning"].reason


def test_the_three_are_told_apart():
    three = [
        situation(CHEST),
        situation({"a": (4, 3), "b": (3, 4), "c": (4, 3)}, backbone="squeezenet1_1", weights="random"),
        situation({"a": (2000, 1800), "b": (1500, 1600)}, GPU, backbone="densenet121"),
    ]
    keys = ("backbone.name", "tune.part", "features.stages", "features.pool", "method.name")
    assert len({tuple(values(one)[key] for key in keys) for one in three}) == 3


# Further cases, rule by rule.


@pytest.mark.parametrize(
    ("train", "method", "said"),
    [
        ({"a": (4000, 0), "b": (0, 4000)}, "scaffold", "mean distance 0.50"),
        ({"a": (9000, 1000), "b": (1000, 9000)}, "scaffold", "mean distance 0.40"),
        ({"a": (9000, 9000), "b": (300, 300)}, "fednova", "30 times"),
        ({"a": (3000, 3000), "b": (3000, 3000)}, "fedavg", "alike"),
    ],
)
def test_rounds_of_unlike_hospitals(train, method, said):
    found = advised(situation(train, GPU))["method.name"]
    assert found.value == method
    assert said in found.reason


@pytest.mark.parametrize(
    ("train", "backbone", "value"),
    [
        ({"a": (9000, 3000), "b": (1000, 9000)}, "densenet121", "local"),
        ({"a": (4000, 4000), "b": (4000, 4000)}, "densenet121", "frozen"),
        ({"a": (4000, 0), "b": (0, 4000)}, "densenet121", "frozen"),
        ({"a": (4000, 4000), "b": (30, 30)}, "densenet121", "frozen"),
        ({"a": (9000, 3000), "b": (1000, 9000)}, "convnext_tiny", None),
    ],
)
def test_batch_norm_is_local_where_hospitals_differ_and_are_large(train, backbone, value):
    assert values(situation(train, GPU, backbone=backbone)).get("tune.batch_norm") == value


def test_batch_norm_stays_frozen_for_the_cross_site_matrix():
    found = situation({"a": (9000, 3000), "b": (1000, 9000)}, GPU, "densenet121", evaluation={"cross_site": True})
    assert "cross_site" in advised(found)["tune.batch_norm"].reason


@pytest.mark.parametrize(
    ("machine", "train", "part", "said"),
    [
        (GPU, (900, 5000), "head", "900 training images of the rarest class: under 1,000"),
        (GPU, (9000, 9000), "full", "9,000"),
        (Machine("cuda", gpu_memory_gb=2, images_per_s=900), (9000, 9000), "head", "2 GB"),
        (Machine("cuda", gpu_memory_gb=8, images_per_s=900), (9000, 9000), "last-blocks", "8 GB"),
        (Machine("mps", images_per_s=900), (9000, 9000), "last-blocks", "GPU at every hospital"),
        (Machine("cuda", gpu_memory_gb=8, images_per_s=10), (9000, 9000), "head", "1.5 h"),
        (CPU, (9000, 9000), "head", "no GPU"),
    ],
)
def test_how_much_is_trained(machine, train, part, said):
    found = advised(situation({"a": train, "b": (0, 0)}, machine, "densenet121"))["tune.part"]
    assert found.value == part
    assert said in found.reason


def test_one_hospital_without_a_gpu_decides():
    found = situation({"a": (9000, 9000), "b": (9000, 9000)}, GPU)
    mixed = Situation(found.job, found.data, {"a": GPU, "b": CPU})
    assert values(mixed)["tune.part"] == "head"


def test_imbalance_asks_for_another_metric_and_weights():
    some = situation({"a": (8000, 1600)}, GPU, evaluation={"select_by": "accuracy"})
    assert values(some)["evaluation.select_by"] == "auroc"
    assert values(some)["method.class_weights"] == "balanced"
    rare = situation({"a": (40_000, 1500)}, GPU)
    assert values(rare)["method.class_weights"] == "balanced"
    assert values(rare)["evaluation.select_by"] == "average_precision"
    assert "26.7 times" in advised(rare)["evaluation.select_by"].reason
    assert "evaluation.select_by" not in values(situation({"a": (500, 400)}))
    assert values(situation({"a": (40, 0)}))["method.class_weights"] == "balanced"


@pytest.mark.parametrize(
    ("backbone", "mbit", "pool", "projection"),
    [
        ("mobilenet_v2", None, ("mean",), None),
        ("resnet50", None, ("mean",), None),
        ("vgg16", None, ("mean",), 4096),
        ("resnet50", 1.0, ("mean",), 1024),
    ],
)
def test_wide_features_are_cut_down_to_what_the_network_takes(backbone, mbit, pool, projection):
    machine = Machine("cpu", images_per_s=75, network_mbit_per_s=mbit)
    found = values(situation({"a": (900, 900), "b": (900, 900)}, machine, backbone))
    assert found["features.pool"] == pool
    assert found.get("method.projection") == projection
    assert found.get("method.stage_subsets") is (None if projection is None else False)


def test_rounds_start_from_the_last_stage_where_all_are_too_wide():
    found = values(situation({"a": (9000, 9000)}, GPU, "vgg16"))
    assert (found["tune.part"], found["features.stages"]) == ("full", "last")
    assert "method.projection" not in found


@pytest.mark.parametrize(("modality", "value"), [("chest-xray", True), ("abdominal-ct", False), ("other", False)])
def test_mirroring_is_for_the_modality_to_allow(modality, value):
    found = advised(situation(CHEST, modality=modality))["features.mirror"]
    assert found.value is value
    assert {"abdominal-ct": "each have their side", "other": "names no modality"}.get(
        modality, "either side"
    ) in found.reason


def test_few_validation_patients_are_helped_by_the_job_or_by_the_manifest():
    few = situation({"a": (60, 60)})
    assert values(few)["evaluation.validation_fraction"] == 0.13  # 20 of 156 patients
    own = Data((hospital("a", (60, 60), split_given=True),))
    found = Situation(few.job, own, few.machines)
    assert "write split: validation" in advised(found, "note")["evaluation.validation_fraction"].reason
    assert "evaluation.validation_fraction" not in advised(found)


def test_small_images_are_not_blown_up():
    found = advised(situation(CHEST, side_px=100))["image.size"]
    assert found.value == 96
    assert "5.4 times" in found.reason
    assert values(situation({"a": (9000, 9000)}, GPU, "densenet121", side_px=1024))["image.size"] == 320
    assert values(situation(CHEST, backbone="vit_b_16", side_px=100))["image.size"] == 224


def test_only_weights_at_hand_are_recommended_and_no_network_is_claimed():
    alone = advised(situation(CHEST))["backbone.name"]
    assert "efficientnet_b0" in alone.reason
    assert "no network was asked" in alone.reason
    found = advised(situation(CHEST, weights="random", at_hand=["efficientnet_b0", "squeezenet1_0"]))
    assert found["backbone.name"].value == "efficientnet_b0"
    assert found["backbone.weights"].value == WeightsFile("efficientnet_b0", "efficientnet_b0.safetensors", "b" * 64)
    same = advised(situation(CHEST, weights="random", at_hand=["mobilenet_v2"]))
    assert same["backbone.weights"].value.backbone == "mobilenet_v2"


def test_a_backbone_too_slow_for_a_cpu_gives_way():
    slow = Machine("cpu", images_per_s=0.5)
    found = advised(situation(CHEST, slow, "vgg16", at_hand=["mobilenet_v2"]))["backbone.name"]
    assert found.value == "mobilenet_v2"
    assert "51.4 times less to compute" in found.reason


def test_a_file_that_is_not_the_one_of_the_job_is_noticed():
    weights = {"file": "mobilenet_v2.safetensors", "sha256": "a" * 64}
    notes = advised(situation(CHEST, weights=weights, at_hand=["mobilenet_v2"]), "note")
    assert "another file" in notes["backbone.weights"].reason


def test_what_was_measured_decides_and_ties_go_to_the_cheaper():
    tried = [
        Measured("mobilenet_v2", "last", 0.961, (0.94, 0.98), 13.0, 3_300_000),
        Measured("mobilenet_v2", "all", 0.975, (0.95, 0.99), 13.0, 26_000_000),
        Measured("squeezenet1_0", "all", 0.973, (0.95, 0.99), 9.0, 13_000_000),
    ]
    found = advised(situation(CHEST, at_hand=["squeezenet1_0"], measured=tried))
    assert found["backbone.name"].value == "squeezenet1_0"
    assert found["backbone.name"].reason.startswith("measured here: the best of 2 backbones")
    assert "0.973 (95 % 0.950 to 0.990)" in found["backbone.name"].reason
    assert found["features.stages"].value == "all"


def test_the_deadline_covers_the_slowest_hospital():
    slow = Machine("cpu", images_per_s=2)
    found = advised(situation(CHEST, slow))["quorum.deadline_s"]
    assert found.value >= 3 * 2 * 1858 / 2
    assert "quorum.deadline_s" not in values(situation(CHEST))


def test_short_disks_are_named():
    machine = Machine("cuda", gpu_memory_gb=8, images_per_s=900, disk_free_gb=3)
    notes = advised(situation({"a": (2000, 2000)}, machine), "note")
    assert "a 3 GB" in notes["activation_cache_gb"].reason


def test_a_class_without_images_and_unknown_speeds_stop_no_rule():
    for machine in (Machine("cuda", gpu_memory_gb=8), Machine("cpu")):
        for train in ({"a": (40, 0), "b": (0, 0)}, {"a": (4000, 4000)}, {"a": (1, 0, 0)}):
            for one in advise(situation(train, machine)):
                assert one.reason
                assert one.source


def test_every_rule_is_a_pure_function():
    found = situation(CHEST)
    assert advise(found) == advise(found)
    assert len(RULES) == len(set(RULES))


# The figures.


def test_label_skew_is_the_total_variation_distance():
    data = situation({"a": (3, 1), "b": (1, 3), "c": (0, 0)}).data
    assert [data.label_skew(one) for one in data.hospitals] == [0.25, 0.25, 0.0]  # |3/4 - 1/2| and |1/4 - 1/2|, halved
    assert data.mean_label_skew == 0.25
    assert data.size_ratio == 1.0
    assert data.one_class == ()


def test_the_bytes_of_the_sums_are_those_of_the_arrays():
    features, classes = 7, 3
    triangle = np.zeros((features + 1) * (features + 2) // 2, np.float32)
    assert sums_bytes(features, classes) == triangle.nbytes + np.zeros((features + 1, classes), np.float32).nbytes


def test_the_slowest_hospital_sets_the_time():
    found = situation({"a": (100, 100), "b": (10, 10)})
    assert pass_seconds(found, "mobilenet_v2", 224) == pytest.approx(260 / 75)  # 200 + 20 + 40 images at 75 a second
    assert pass_seconds(found, "mobilenet_v2", 112, views=2) == pytest.approx(260 / 75 / 4 * 2)


def test_operations_are_those_of_torchvision():
    for name, number in GIGA_OPERATIONS.items():
        assert torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"] == pytest.approx(number)
