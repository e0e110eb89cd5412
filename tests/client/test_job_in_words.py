import pytest

from client.job_in_words import in_words
from client.policy import Policy
from common.wire import ASKED_BY, SUMMED_BY

PRIVATE = {"secure_aggregation": True, "differential_privacy": {"epsilon": 3.0}}


LOCAL = {"privacy": {"differential_privacy": {"epsilon": 3.0, "noise": "own"}}}
CENTRAL = {"privacy": {"differential_privacy": {"epsilon": 3.0, "unit": "hospital", "hospitals": 200}}}


def words(job, **policy) -> dict[str, str]:
    return dict(in_words(job, Policy(**policy)))


def test_sizes_are_those_of_the_messages(job, requests_of, hospital_with, phantoms):
    hospital = hospital_with(phantoms["hospital-a"])
    reply = hospital.answer("fit", requests_of(job(), hospital).fit())
    size = sum(array.nbytes for array in reply.arrays.values())
    text = words(job())["what leaves"]
    assert f"the last layer's weights and counts, {size / 1e3:.0f} kB in each of 4 rounds" in text


@pytest.mark.parametrize(
    ("changes", "heading", "expected"),
    [
        ({}, "what is trained", "the last layer only, by fedavg, 4 rounds"),
        ({"method": "analytic"}, "what is trained", "by analytic, one exchange of sums"),
        ({"method": "analytic"}, "what leaves", "sums of products of features"),
        ({"evaluation": {"cross_site": True}}, "what leaves", "a last layer trained here alone"),
        ({"duplicates": "check"}, "what leaves", "keyed hashes of every image, 136 bytes each"),
        ({}, "the task", "tell apart normal, opacity"),
        ({}, "your patients", "70% train, 10% choose, 20% test"),
        ({}, "protection", "no secure aggregation, no noise"),
        ({"privacy": {"secure_aggregation": True}}, "protection", "only sums over hospitals"),
        (
            {"method": "analytic", "privacy": PRIVATE, "evaluation": {"validation_fraction": 0}},
            "protection",
            "epsilon 3, delta 1e-05",
        ),
        (
            {"privacy": {"secure_aggregation": True}},
            "what leaves",
            "masked, as parts of sums over hospitals: numbers of images",
        ),
        ({**LOCAL, "method": "fedavg"}, "protection", "all of the noise is added here, in training: nobody else"),
        ({**LOCAL, "method": "fedavg"}, "what leaves", "with noise: the last layer's weights"),
        ({**CENTRAL, "method": "fedavg"}, "protection", "The coordinator SEES this hospital's own numbers"),
        ({**CENTRAL, "method": "fedavg"}, "protection", "whether this hospital took part: epsilon 3, delta 1e-05"),
        ({**CENTRAL, "method": "fedavg"}, "protection", "it is not charged to this hospital's budget"),
        ({**CENTRAL, "method": "fedavg"}, "what leaves", "numbers of images and patients, and sums of all features"),
        (
            {"evaluation": {"groups": ["age_band"]}},
            "what leaves",
            "on test patients by age band, small groups withheld",
        ),
        ({}, "taking part", "needs 2 hospitals; each has 60 s"),
    ],
)
def test_what_a_person_should_know(job, changes, heading, expected):
    changes = changes if "evaluation" in changes else {**changes, "evaluation": {}}
    assert expected in words(job(**changes))[heading]


def test_deep_tuning_says_that_more_leaves(job):
    deep = job(
        tune={"part": "last-blocks", "blocks": 2},
        method={"name": "fedavg", "rounds": 2},
        features={"stages": "last"},
    )
    assert "the last 2 blocks" in words(deep)["what is trained"]
    assert "at most" in words(deep)["what leaves"]


def test_every_kind_of_request_is_in_what_leaves(job):
    """A kind that is added must be told to whoever approves."""
    told = {"describe", "statistics", "fit", "evaluate", "distances", "own", "duplicates", "groups"}
    assert "how unlike the training images" in words(job())["what leaves"]
    masked = {"keys", "shares", "masked", "confirm", "unmask"}  # their content: test_every_sum_is_in_what_leaves
    the_same = {
        "initial": "the pretrained arrays, which everybody has",
        "personalise": "counts",
        "collisions": "nothing",
    }
    assert told | masked | set(the_same) == set(ASKED_BY)


def test_what_the_policy_says_of_it(job):
    allowed = words(job(), min_examples=50, min_patients=20, min_count=5)["your policy"]
    assert "allows it, with 50 training images of 20 patients" in allowed
    assert "multiples of 5" in allowed
    assert "are exact" in words(job())["your policy"]
    declined = words(job(), allow_methods=("analytic",), max_rounds=1)["your policy"]
    assert declined.startswith("DECLINES it")
    assert "policy.max_rounds is 1" in declined


@pytest.mark.parametrize("method", ["analytic", "fedavg", "dp-gd"])
def test_every_sum_is_in_what_leaves(job, method):
    private = {"privacy": PRIVATE, "evaluation": {"validation_fraction": 0}} if method == "dp-gd" else {}
    one = job(**{"method": method, "evaluation": {}, "privacy": {"secure_aggregation": True}, **private})
    text = words(one)["what leaves"]
    assert text.count(";") + 1 == sum(of_job(one) for of_job in SUMMED_BY.values())
    assert ("with noise" in text) == (method == "dp-gd")


def test_every_noised_head_under_secure_aggregation_is_in_what_leaves(job):
    own = {"epsilon": 3.0, "noise": "own"}
    one = job(method="fedavg", evaluation={}, privacy={"secure_aggregation": True, "differential_privacy": own})
    text = words(one)["what leaves"]
    assert text.count(";") + 1 == sum(of_job(one) for of_job in SUMMED_BY.values()) == 3
    assert "with noise: the change of the last layer's weights in each of 20 rounds" in text
    assert "nobody else has to be trusted" in words(one)["protection"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({}, "images of 64 pixels"),
        ({"window": "lung"}, "images of 64 pixels, seen in the window lung"),
        ({"window": [40, 80], "slices": 5}, "seen in the window centre 40, width 80, 5 slices of each study averaged"),
        ({"slices": "all"}, "images of 64 pixels, all slices of each study averaged"),
    ],
)
def test_window_and_slices_are_told_where_a_job_chooses_them(job, image, words):
    told = dict(in_words(job(image={"size": 64, **image}), Policy()))["the network"]
    assert told.endswith(words)
