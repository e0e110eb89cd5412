"""Who takes part: the hospitals whose description passed the guard and whose feature space is the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import FederationError
from common.job import Job
from common.messages import Description
from server.exchange import Asked
from server.guard import Expected, screen


@dataclass(frozen=True)
class Member:
    """A hospital that takes part, and what it said of itself."""

    name: str
    node: int
    description: Description


@dataclass(frozen=True)
class Members:
    """The hospitals taking part, sorted by name, and those dropped, with the reason."""

    members: Sequence[Member]
    dropped: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """The feature space they share."""
        return self.members[0].description.fingerprint

    @property
    def backbone_digest(self) -> str:
        """The network they share."""
        return self.members[0].description.backbone_digest

    def by_node(self) -> dict[int, Member]:
        """Members by their node."""
        return {member.node: member for member in self.members}

    def missing_classes(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """For each hospital that lacks any, the classes it has no image of."""
        missing = {
            member.name: [
                name for name, images in zip(classes, member.description.images.sum(axis=0), strict=True) if not images
            ]
            for member in self.members
        }
        return {name: lacking for name, lacking in missing.items() if lacking}


def accept_members(job: Job, nodes: Mapping[int, str], asked: Asked, needed: int) -> Members:
    """The members of a run, from the answers to the describe request.

    A hospital is known by the name it is registered under; a simulated one has none and says its own, if no other does.
    The feature space is the one most hospitals have; the others are dropped.

    Raises:
        FederationError: fewer than `needed` are left; says why each was dropped.
    """
    expected = Expected("describe", job, fields={"job-id": job.job_id})
    dropped = {_fallback_name(node, nodes): reason for node, reason in asked.failures.items()}
    described: dict[int, tuple[str, Description]] = {}
    for node, answers in sorted(asked.answers.items()):
        checked = screen(answers, expected)
        if isinstance(checked, str):
            dropped[_fallback_name(node, nodes)] = checked
        else:
            described[node] = (str(checked.fields.get("hospital", "")), Description.unpack(checked))
    claims = Counter(claimed for claimed, _ in described.values())
    members = []
    for node, (claimed, description) in described.items():
        free = claimed and claims[claimed] == 1 and claimed not in nodes.values()
        name = nodes.get(node) or (claimed if free else _fallback_name(node, nodes))
        members.append(Member(name, node, description))
    members.sort(key=lambda member: member.name)
    spaces = Counter(_space(member.description) for member in members)
    shared = min(spaces, key=lambda space: (-spaces[space], space)) if spaces else ""
    for member in members:
        if _space(member.description) != shared:
            dropped[member.name] = "another feature space than most hospitals (other weights or preprocessing)"
    members = [member for member in members if member.name not in dropped]
    if len(members) < needed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(dropped.items())) or "no other is connected"
        raise FederationError(
            f"{len(members)} of {len(nodes)} hospitals can take part, the job needs {needed}: {reasons}. "
            "The reason in full is in that hospital's own log"
        )
    return Members(tuple(members), dropped)


def _space(description: Description) -> str:
    """What must be equal before anything is combined: the features, and the arrays that are tuned."""
    return f"{description.fingerprint} {description.tuned_digest}"


def _fallback_name(node: int, nodes: Mapping[int, str]) -> str:
    return nodes.get(node) or f"node-{node}"
