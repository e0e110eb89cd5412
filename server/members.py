"""Who takes part: the hospitals whose description passed the guard and whose feature space is the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.dp.private_features import patients_of
from common.head import Float64
from common.job import Job
from common.messages import Description, Space
from common.wire import Packed
from server.guard import Expected, screen

OTHER_SPACE = "another feature space than most hospitals (other weights or preprocessing)"


@dataclass(frozen=True, slots=True)
class Member:
    """A hospital that takes part, its space, and what it said of its data: nothing under secure aggregation.

    centre: instead, where it trains with noise of its own: noised sums of its patients' features, and their number (D + 1,).
    """

    name: str
    node: int
    space: Space
    description: Description | None = None
    centre: Float64 | None = None

    @property
    def patients(self) -> int:
        """About how many there are in training, by the noised number; 0 where none was told."""
        return patients_of(self.centre) if self.centre is not None else 0


@dataclass(frozen=True)
class Members:
    """The hospitals taking part, sorted by name, and those that do not, with the reason."""

    members: Sequence[Member]
    dropped: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """The feature space they share."""
        return self.members[0].space.fingerprint

    @property
    def backbone_digest(self) -> str:
        """The network they share."""
        return self.members[0].space.backbone_digest

    def by_node(self) -> dict[int, Member]:
        """Members by their node."""
        return {member.node: member for member in self.members}

    def descriptions(self) -> dict[str, Description]:
        """By hospital, what each said of its data."""
        return {one.name: one.description for one in self.members if one.description is not None}


@dataclass(frozen=True, slots=True)
class Described:
    """A description that passed the guard, and the name its sender gives itself ("" if it gives none)."""

    claimed: str
    space: Space
    description: Description | None = None
    centre: Float64 | None = None

    def of_space(self, space: Space) -> "Described":
        """With that object for its equal space: thousands of hospitals then share one."""
        description = replace(self.description, space=space) if self.description is not None else None
        return replace(self, space=space, description=description)


def read_description(job: Job, answers: list[Packed]) -> Described | str:
    """What a node said of itself, or why it is not accepted."""
    checked = screen(answers, Expected("describe", job, fields={"job-id": job.job_id}))
    if isinstance(checked, str):
        return checked
    claimed, space = str(checked.fields.get("hospital", "")), Space.unpack(checked)
    if job.privacy.secure_aggregation:
        return Described(claimed, space)
    if job.noised_locally:
        return Described(claimed, space, centre=checked.arrays["centre"].astype(np.float64))
    return Described(claimed, space, Description.unpack(checked))


def choose_members(names: Mapping[int, str], described: Mapping[int, Described], reasons: Mapping[int, str]) -> Members:
    """The members of a run, from what nodes said of themselves. names: registered ones. reasons: why others said nothing.

    A hospital is known by the name it is registered under; a simulated one has none and says its own, if no other does.
    The feature space is the one most hospitals have; the others are dropped.
    """
    registered = Counter(name for node, name in names.items() if name and node in described)
    claims = Counter(one.claimed for one in described.values())
    members = []
    for node, one in sorted(described.items()):
        free = one.claimed and claims[one.claimed] == 1 and one.claimed not in names.values()
        name = names.get(node) or (one.claimed if free else fallback_name(node))
        # Two nodes of one name would be taken for one hospital.
        chosen = name if registered[name] < 2 else fallback_name(node)
        members.append(member_of(chosen, node, one))
    members.sort(key=lambda member: member.name)
    spaces = Counter(one.space for one in described.values())
    shared = min(spaces, key=lambda space: (-spaces[space], str(space))) if spaces else None
    dropped = {names.get(node) or fallback_name(node): reason for node, reason in reasons.items()}
    dropped |= {member.name: OTHER_SPACE for member in members if member.space != shared}
    return Members(tuple(member for member in members if member.space == shared), dropped)


def member_of(name: str, node: int, one: Described) -> Member:
    """A described node as a member of that name."""
    return Member(name, node, one.space, one.description, one.centre)


def fallback_name(node: int) -> str:
    """The name of a hospital that has none of its own."""
    return f"node-{node}"


def missing_classes(described: Mapping[str, Description], classes: Sequence[str]) -> dict[str, list[str]]:
    """For each hospital that lacks any, the classes it has no image of."""
    missing = {
        hospital: [name for name, images in zip(classes, one.images.sum(axis=0), strict=True) if not images]
        for hospital, one in described.items()
    }
    return {hospital: lacking for hospital, lacking in missing.items() if lacking}
