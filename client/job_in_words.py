"""A job in plain words, for the person at the hospital who approves it: what is trained, what leaves, how often."""

from client.policy import Policy, require_policy
from common.backbones import backbone_row
from common.errors import Refusal
from common.job import Job
from common.summed import Question, layout_of
from common.wire import ASKED_BY, HASHES_PER_IMAGE, REPLIES, SUMMED_BY, bytes_of, dimensions

Line = tuple[str, str]


def in_words(job: Job, policy: Policy) -> list[Line]:
    """A heading and a sentence for each thing worth knowing before a job is approved, at a hospital of this policy."""
    return [
        ("the task", f"tell apart {', '.join(job.classes)} ({job.modality})"),
        ("the network", _network(job)),
        ("what is trained", _trained(job)),
        ("what leaves", _leaves(job)),
        ("never leaves", "images, features of single images, file names, patient ids, free text"),
        ("protection", _protection(job)),
        ("your patients", _parts(job)),
        ("taking part", _quorum(job)),
        ("your policy", _policy(job, policy)),
    ]


def _network(job: Job) -> str:
    weights = job.backbone.weights
    where = f"sha256 {weights.sha256}" if weights.sha256 else f"{weights.name}"
    return f"{job.backbone.name}, weights {where}, images of {job.size_px} pixels{_looked_at(job)}"


def _looked_at(job: Job) -> str:
    """Window and slices, where a job chooses them."""
    window, slices = job.image.window, job.image.slice_count
    of_study = "" if slices == 1 else f", {slices or 'all'} slices of each study averaged"
    if window is None:
        return of_study
    named = window if isinstance(window, str) else f"centre {window[0]:g}, width {window[1]:g}"
    return f", seen in the window {named}{of_study}"


def _trained(job: Job) -> str:
    what = {
        "head": "the last layer only",
        "last-blocks": f"the last layer and the last {job.tune.blocks} blocks of the network",
        "full": "the whole network",
    }[job.tune.part]
    once = not job.method.iterative and not job.method.noised_gradients
    rounds = "one exchange of sums" if once else f"{job.method.rounds} rounds"
    return f"{what}, by {job.method.name}, {rounds}"


def _leaves(job: Job) -> str:
    if job.privacy.secure_aggregation:
        return "; ".join(_leaves_masked(job))
    if job.noised_locally:
        return "; ".join(
            [
                f"with noise: sums of all features, and the number of patients, {_size('describe', job)} once",
                f"with noise: the last layer's weights, {_size('fit', job)} in each of {job.method.rounds} rounds",
                "counts of right and wrong answers, score histograms and loss sums on test patients",
            ]
        )
    sent = [f"numbers of images and patients, and sums of all features, {_size('describe', job)}"]
    if ASKED_BY["statistics"](job):
        sent.append(f"sums of products of features, over all training images, {_size('statistics', job)} once")
    if ASKED_BY["fit"](job):
        tuned = " and those of the tuned blocks" if job.tune.deep else ""
        sent.append(
            f"the last layer's weights{tuned} and counts, {_size('fit', job)} in each of {job.method.rounds} rounds"
        )
    if ASKED_BY["own"](job):
        sent.append(f"a last layer trained here alone, {_size('own', job)} once")
    if ASKED_BY["duplicates"](job):
        sent.append(
            f"keyed hashes of every image, {8 * (1 + HASHES_PER_IMAGE)} bytes each, once: the coordinator counts how many "
            "another hospital has too, and you learn which of your own"
        )
    sent.append("how many validation images are how unlike the training images")
    if ASKED_BY["groups"](job):
        sent.append(f"{_by_groups(job)}, {_size('groups', job)} once")
    sent.append("counts of right and wrong answers, score histograms and loss sums on validation and test patients")
    return "; ".join(sent)


def _leaves_masked(job: Job) -> list[str]:
    """What is added to sums over hospitals; nobody outside sees this hospital's part of them."""
    asked = [name for name, of_job in SUMMED_BY.items() if of_job(job)]
    words = {
        "holdings": "numbers of images and patients, and sums of all features",
        "statistics": "sums of products of features, over all training images",
        "fit": f"the change of the weights in each of {job.method.rounds} rounds, with counts",
        "evaluate": "counts of right and wrong answers, score histograms and loss sums on validation and test patients",
        "distances": "how many validation images are how unlike the training images",
        "groups": _by_groups(job),
        "centre": "with noise: sums of all features, and the number of patients",
        "noised-statistics": "with noise: bounded sums of products of features",
        "noised-fit": (
            f"with noise: the change of the last layer's weights in each of {job.method.rounds} rounds, and the number of "
            "patients"
        ),
        "gradient": f"with noise: the sum of the patients' bounded gradients in each of {job.method.rounds} rounds",
    }
    sizes = {name: 8 * layout_of(Question(name, part="test"), job, {}).length for name in asked}
    return [
        "masked, as parts of sums over hospitals: "
        + "; ".join(f"{words[one]}, {_in_bytes(sizes[one])}" for one in asked)
    ]


def _by_groups(job: Job) -> str:
    names = ", ".join(name.replace("_", " ") for name in job.evaluation.groups)
    return f"counts of right and wrong answers on test patients by {names}, small groups withheld"


def _protection(job: Job) -> str:
    have: list[str] = []
    if job.privacy.secure_aggregation:
        have.append("secure aggregation: the coordinator sees only sums over hospitals")
    budget = job.privacy.differential_privacy
    if budget is not None and job.hospitals_protected:
        return (
            "TLS on the way. The coordinator SEES this hospital's own numbers, weights and counts, and must be trusted. It adds "
            "noise to the mean over hospitals, so that others, and who reads the model, hardly learn whether this hospital took "
            f"part: epsilon {budget.epsilon:g}, delta {budget.delta:g}, for a hospital as a whole, with {budget.hospitals} "
            "hospitals. Nothing of it is added here, so it is not charged to this hospital's budget; counts of test patients "
            "have no noise"
        )
    if budget is not None:
        noise = "each hospital adds all the noise" if budget.noise == "own" else "the hospitals share the noise"
        if job.noised_locally:
            noise = "all of the noise is added here, in training: nobody else has to be trusted"
        have.append(
            f"differential privacy for each patient in training: epsilon {budget.epsilon:g}, delta {budget.delta:g}, {noise}; "
            "counts of test patients have none"
        )
    if have:
        return "; ".join(have)
    return "TLS on the way. The coordinator sees this hospital's own sums, weights and counts: no secure aggregation, no noise"


def _parts(job: Job) -> str:
    test, validation = job.evaluation.test_fraction, job.evaluation.validation_fraction
    return f"{1 - test - validation:.0%} train, {validation:.0%} choose, {test:.0%} test; a patient is in one part only"


def _quorum(job: Job) -> str:
    return f"a round needs {job.quorum.min_hospitals} hospitals; each has {job.quorum.deadline_s:g} s to answer"


def _policy(job: Job, policy: Policy) -> str:
    try:
        require_policy(policy, job)
    except Refusal as refusal:
        return f"DECLINES it, approved or not: {refusal}"
    counts = "exact" if policy.min_count == 1 else f"multiples of {policy.min_count}"
    return (
        f"allows it, with {policy.min_examples} training images of {policy.min_patients} patients or more; counts of validation "
        f"and test patients are {counts}"
    )


def _size(kind: str, job: Job) -> str:
    """Bytes of the arrays in a reply; what a job tunes of the network is counted as the whole network at most."""
    total = bytes_of(REPLIES[kind], dimensions(job))
    most = ""
    if kind == "fit" and job.tune.deep:
        total, most = total + 4 * backbone_row(job.backbone.name).parameters, "at most "
    return f"{most}{_in_bytes(total)}"


def _in_bytes(total: int) -> str:
    return f"{total / 1e6:.1f} MB" if total >= 1e6 else f"{total / 1e3:.0f} kB"
