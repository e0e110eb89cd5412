"""The rows of `consilium compare`: ways of training, each a change of the job's YAML content.

A row is one entry of `ROWS`. What a job leaves open is filled in after the change, so the features follow the method.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from common.config_file import unknown
from common.errors import ConfigError
from common.methods import DEFAULT as DEFAULT_METHOD
from common.methods import LOCAL_TRAINING, METHODS

Content = Mapping[str, Any]
"""A job as its YAML file says it; it has been parsed once, so it is known to be valid."""

SCRATCH_ROUNDS = 3
_RANDOM = {"name": "random", "seed": 0}
_DEEP_METHOD = {"name": "fedavg", "warm_start": "analytic", "rounds": 6, "lr": 1e-4}


@dataclass(frozen=True)
class ComparedRow:
    """A way of training. `change` takes the job's content and the rounds of `scratch`.

    who trains: all hospitals together; each alone, which makes a line per hospital; or one that has all images.
    """

    summary: str
    change: Callable[[Content, int], Content]
    who: Literal["together", "each alone", "one place"] = "together"


def _job(content: Content, _scratch_rounds: int) -> Content:
    return content


def _by_method(name: str, content: Content, _scratch_rounds: int, **options: Any) -> Content:
    """The head alone, trained by a method of `METHODS` with the job's local training.

    Options and features that the job gives stay where this is the job's own method.
    """
    written = _method_of(content)
    own = written["name"] == name and written.get("warm_start", "none") == options.get("warm_start", "none")
    kept = {key: value for key, value in content.items() if key != "tune" and (own or key != "features")}
    method = {key: value for key, value in written.items() if key != "warm_start"} if own else _local(written, name)
    return {**kept, "method": {**method, "name": name, **options}}


def _local(written: Content, name: str) -> Content:
    """What of the job's local training another method takes on.

    scaffold makes plain steps: without momentum m its learning rate is the job's times 1 / (1 - m), as far in the long run.
    """
    if not METHODS[name].iterative or not METHODS[written["name"]].iterative:
        return {}
    taken = {key: value for key, value in written.items() if key in LOCAL_TRAINING and key != "warm_start"}
    plain_steps = {"scaffold": ("optimizer", "momentum"), "fednova": ("optimizer",)}.get(name, ())
    if plain_steps and written.get("optimizer") == "adam":
        # The learning rate was one for Adam.
        plain_steps = ("optimizer", "momentum", "lr")
    elif name == "scaffold":
        momentum, lr = (written.get(key, METHODS[written["name"]].defaults()[key]) for key in ("momentum", "lr"))
        taken["lr"] = lr / (1 - momentum)
    return {key: value for key, value in taken.items() if key not in plain_steps}


def _last_stage(content: Content, scratch_rounds: int) -> Content:
    return {**_by_method("analytic", content, scratch_rounds), "features": {"stages": "last"}}


def _tuned(tune: Content, content: Content, _scratch_rounds: int) -> Content:
    kept = {key: value for key, value in content.items() if key != "features"}
    return {**kept, "tune": tune, "method": _DEEP_METHOD}


def _random_backbone(content: Content, _scratch_rounds: int) -> Content:
    return {**content, "backbone": {**content["backbone"], "weights": _RANDOM}}


def _scratch(content: Content, scratch_rounds: int) -> Content:
    kept = {key: value for key, value in content.items() if key != "features"}
    method = {"name": "fedavg", "rounds": scratch_rounds, "optimizer": "adam", "lr": 1e-3}
    backbone = {**content["backbone"], "weights": _RANDOM}
    return {**kept, "backbone": backbone, "tune": {"part": "full", "lr": 1e-3}, "method": method}


def _one_hospital(content: Content, _scratch_rounds: int) -> Content:
    """The job for a single hospital. Of one update every mean, however robust, is that update, so fedavg stands for them."""
    written = _method_of(content)
    if METHODS[written["name"]].min_hospitals > 1:
        written = {**{key: value for key, value in written.items() if key in LOCAL_TRAINING}, "name": "fedavg"}
    return {**content, "method": written, "quorum": {**content.get("quorum", {}), "min_hospitals": 1}}


def _method_of(content: Content) -> dict[str, Any]:
    """The job's method as a mapping; what is null in it is left open."""
    method = content.get("method", DEFAULT_METHOD)
    written = {"name": method} if isinstance(method, str) else {"name": DEFAULT_METHOD, **method}
    return {key: value for key, value in written.items() if value is not None}


def _warm(name: str, content: Content, scratch_rounds: int) -> Content:
    return _by_method(name, content, scratch_rounds, warm_start="analytic")


_SPECIAL: Mapping[str, ComparedRow] = {
    "alone": ComparedRow("each hospital by itself, by the job's own method", _one_hospital, "each alone"),
    "pooled": ComparedRow("all images in one place, by the job's own method; simulation only", _one_hospital, "one place"),
    "job": ComparedRow("the job as it is written", _job),
    "random-backbone": ComparedRow("the job on a frozen random backbone: what pretraining is worth", _random_backbone),
    "scratch": ComparedRow("every weight trained from random ones, fedavg with adam, --scratch-rounds rounds", _scratch),
    "analytic": ComparedRow("one round, closed form, several stages of the backbone", partial(_by_method, "analytic")),
    "analytic-last": ComparedRow("one round, closed form, the backbone's last stage only", _last_stage),
    "last-blocks": ComparedRow(
        "the backbone's last blocks too, 6 rounds from the closed-form head", partial(_tuned, {"part": "last-blocks"})
    ),
    "full": ComparedRow("the whole backbone too, 6 rounds from the closed-form head", partial(_tuned, {"part": "full"})),
    "fedbn": ComparedRow(
        "last-blocks; each hospital trains and keeps its own batch normalisation",
        partial(_tuned, {"part": "last-blocks", "batch_norm": "local"}),
    ),
}  # fmt: skip
_ITERATIVE = {name: row for name, row in METHODS.items() if row.iterative}

ROWS: Mapping[str, ComparedRow] = MappingProxyType(
    {
        **_SPECIAL,
        **{name: ComparedRow(row.summary, partial(_by_method, name)) for name, row in _ITERATIVE.items()},
        **{
            f"{name}-warm": ComparedRow(f"{name} from the closed-form head on", partial(_warm, name))
            for name in _ITERATIVE
        },
    }
)
"""Name -> way of training. Rows of a method train the head only; iterative ones with the job's rounds and local training."""

FRAME = ("alone", "pooled", "random-backbone", "job")
"""What methods are measured against: rows that are there whatever methods are chosen."""

DEFAULT_METHODS = ("analytic", "analytic-last", "fedavg", "fedprox", "fedadam", "scaffold", "fednova", "fedavg-warm")
METHOD_ROWS = tuple(name for name in ROWS if name not in FRAME)


def require_rows(names: Sequence[str], choices: Sequence[str] = tuple(ROWS)) -> None:
    """Check the names of rows.

    Raises:
        ConfigError: an unknown one; the message lists the choices.
    """
    for name in names:
        if name not in choices:
            raise ConfigError(unknown("row", name, list(choices)))


def as_compared(content: Content) -> Content:
    """The job without what costs bytes and seconds and trains nothing: personalisation and the cross-site matrix."""
    kept = {key: value for key, value in content.items() if key != "personalisation"}
    evaluation = {key: value for key, value in content.get("evaluation", {}).items() if key != "cross_site"}
    return {**kept, "evaluation": evaluation} if "evaluation" in kept else kept
