"""A job file with keys changed: the rest stays, letter by letter."""

import re

import pytest
import yaml

from common.errors import ConfigError
from simulation.advice.job_text import Change, changed_content, changed_text

TEXT = """\
# my job
name: quick   # the name

method:
  # rounds of averaging
  name: fedavg
  rounds: 3   # few
  lr: 0.01

tune: head
image: {size: 64, fit: pad}
backbone:
  name: resnet18
  weights:
    name: random
    seed: 1
classes:
- a
- b
seed: 1
"""


def changed(*changes):
    text = changed_text(TEXT, changes)
    assert yaml.safe_load(text) == changed_content(yaml.safe_load(TEXT), changes)
    return text


def test_no_change_no_difference():
    assert changed() == TEXT


def test_one_line_is_replaced_and_its_reason_written_above():
    text = changed(Change("method.rounds", 6, "because"))
    assert text == TEXT.replace("  rounds: 3   # few\n", "  # because\n  rounds: 6\n")


def test_keys_come_and_go():
    text = changed(
        Change("method.lr", removed=True), Change("method.patience", 3), Change("method.momentum", removed=True)
    )
    assert text == TEXT.replace("  lr: 0.01\n", "  patience: 3\n")


@pytest.mark.parametrize(
    ("change", "there"),
    [
        (Change("tune.part", "last-blocks"), "\ntune:\n  part: last-blocks\nimage"),
        (Change("image.size", 96, "small"), "\nimage:\n  # small\n  size: 96\n  fit: pad\nbackbone"),
        (
            Change("backbone.weights", {"file": "a.safetensors", "sha256": "0" * 64}),
            "\n  weights: {file: a.safetensors, ",
        ),
        (Change("features.pool", ["mean", "max"]), "seed: 1\n\nfeatures:\n  pool: [mean, max]\n"),
        (Change("seed", 7), "\nseed: 7\n"),
        (Change("classes", ["yes", "a: b"]), '\nclasses: ["yes", "a: b"]\nseed'),
    ],
)
def test_every_way_to_write_a_section(change, there):
    assert there in changed(change)


def test_digits_of_a_digest_stay_words():
    text = changed(Change("backbone.weights", {"file": "a", "sha256": "1" * 64}), Change("backbone.name", "1e5"))
    assert f'"{"1" * 64}"' in text
    assert re.search(r"""name: ['\"]1e5['\"]""", text)


def test_a_file_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="mapping"):
        changed_text("[1, 2]", ())
