"""Hospitals come and go: who takes part from which round on.

Before the first round it waits for a quorum of hospitals that can take part. Before each later one it looks who is connected.
A node that is new, or declined, is asked to describe itself while the round goes on, and takes part from the next round on; a
member whose answers contradict its description is asked again. Nothing of it makes a round wait.

In simulations nobody comes or goes, and every answer is final (`Exchange.retry_s` is None).
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from common.errors import FederationError
from common.job import Job
from common.messages import Space
from common.wire import Packed
from server.centre import Centre
from server.exchange import Exchange
from server.failures import Failures
from server.guard import Expected, bytes_of_reply
from server.members import (
    OTHER_SPACE,
    Described,
    Members,
    choose_members,
    fallback_name,
    member_of,
    read_description,
)
from server.meter import Meter
from server.now import HospitalNow, Now, Watch
from server.pending import Pending

log = logging.getLogger(__name__)

NAME_TAKEN = "another connected hospital has its name"
NOT_DESCRIBED = "no description of its data yet"


class Membership:
    """Who takes part in a run, now. `members` changes between questions only."""

    def __init__(
        self, job: Job, exchange: Exchange, meter: Meter, failures: Failures, watch: Watch = lambda _now: None
    ) -> None:
        self._job, self._exchange, self._meter, self._failures = job, exchange, meter, failures
        self._watch = watch
        self.members = Members((), {})
        self._names: dict[int, str] = {}
        self._described: dict[int, Described] = {}
        self._reasons: dict[int, str] = {}
        self._asked_at: dict[int, float] = {}
        self._pending: dict[int, Pending] = {}
        self._doubted: set[int] = set()
        self._space: Space | None = None
        self._spaces: dict[Space, Space] = {}
        self._centres: dict[Space, Centre] = {}
        self._heard: dict[int, Described | str] = {}
        self._sums_wanted = job.method.analytic

    def gather(self, needed: int) -> None:
        """Wait until enough hospitals can take part, and for the others that are connected, as the job's quorum says.

        Raises:
            FederationError: too few are connected, or can take part, at the deadline; says why each cannot.
        """
        quorum, told, enough = self._job.quorum, "", False
        standing_at: float | None = None
        began, since = time.monotonic(), time.time()
        end = began + quorum.deadline_s
        while True:
            nodes, now = self._exchange.nodes(), time.monotonic()
            if not enough and len(nodes) >= needed:
                enough, end = True, now + quorum.deadline_s
            self._ask(nodes, 0)
            self._collect(self._described.__setitem__)
            self.members = self._candidates(nodes)
            self._watch(Now("describe", 0, since, since + end - began, needed, self._states(nodes)))
            standing, waiting = len(self.members.members) >= needed, any(node in nodes for node in self._pending)
            if standing and standing_at is None:
                standing_at = now
            if standing and (not waiting or now >= end or self._grace_over(standing_at)):
                break
            if now >= end or (self._exchange.retry_s is None and enough and not waiting):
                raise FederationError(self._too_few(nodes, needed))
            if (state := f"{len(nodes)} connected, {len(self.members.members)} can take part") != told:
                log.info("waiting for hospitals: %s, %d needed", state, needed)
                told = state
            self._exchange.pause()
        self._space = self.members.members[0].space
        self._described.clear()
        self._failures.add("describe", 0, self.members.dropped)

    def centre(self) -> Centre:
        """The sums of the training features of the hospitals that described themselves before the first round.

        It stays the same for the whole run, whoever comes or goes: heads and updates that are combined must read the
        same features.
        """
        return self._centres[self.members.members[0].space]

    def refresh(self, number: int) -> None:
        """Before round `number`: take in who can take part by now, and ask those who are new, declined or are doubted.

        It waits for nobody.
        """
        if self._exchange.retry_s is None:
            return
        nodes = self._exchange.nodes()
        self._collect(lambda node, one: self._admit(node, one, nodes))
        self._ask(nodes, number)
        members = self.members.by_node()
        outside = {self._name(node): self._reason(node) for node in sorted(nodes) if node not in members}
        self.members = Members(self.members.members, outside)
        self._failures.add("describe", number, outside)

    def doubt(self, node: int) -> None:
        """The answers of a member contradict what it said of itself: it is asked again before the next round."""
        self._doubted.add(node)

    def forget_sums(self) -> None:
        """The sums of the closed form have been held against those of the features: nobody needs the latter any more."""
        self._sums_wanted = False
        members = [
            replace(one, description=one.description.without_sums()) if one.description is not None else one
            for one in self.members.members
        ]
        self.members = Members(tuple(members), self.members.dropped)

    def _hear(self, node: int, answers: list[Packed]) -> None:
        """Read what a node says as soon as it is there. Before the first round the sums of its features go into those of all."""
        if node not in self._pending:
            return  # too late, or said already
        read = read_description(self._job, answers)
        if not isinstance(read, str) and read.description is not None:
            if self._space is None:
                self._centres.setdefault(read.space, Centre()).add(read.description)
            # Those of the closed form are held against the sums of its one round.
            kept = read.description.rounded() if self._sums_wanted else read.description.without_sums()
            read = replace(read, description=kept)
        if not isinstance(read, str):
            read = read.of_space(self._spaces.setdefault(read.space, read.space))
        self._heard[node] = read
        # Now, not when it is collected: of ten thousand hospitals not all questions are held until the last has answered.
        self._meter.count(self._exchange.close(self._pending.pop(node)))

    def _candidates(self, nodes: Mapping[int, str]) -> Members:
        """The members as things stand: nodes that have gone again are not among them."""
        described = {node: one for node, one in self._described.items() if node in nodes}
        reasons = {node: self._reason(node) for node in nodes if node not in described}
        return choose_members(self._names, described, reasons)

    def _ask(self, nodes: Mapping[int, str], number: int) -> None:
        """Ask who is to describe itself: the new, and after a while those who could not."""
        self._names |= nodes
        known = self.members.by_node() if self._space else self._described
        request = Packed({}, {"job": self._job.canonical_json()})
        length = bytes_of_reply(Expected("describe", self._job))
        for node in nodes:
            if (node in known and node not in self._doubted) or not self._due(node):
                continue
            self._pending[node] = self._exchange.post(
                "describe", request, [node], number, self._job.quorum.deadline_s, self._hear, length
            )
            self._asked_at[node] = time.monotonic()
            self._doubted.discard(node)

    def _due(self, node: int) -> bool:
        """Whether a node may be asked: it never was, or long enough ago."""
        if node in self._pending or node in self._heard:
            return False
        retry_s = self._exchange.retry_s
        return node not in self._asked_at or (
            retry_s is not None and time.monotonic() >= self._asked_at[node] + retry_s
        )

    def _collect(self, accept: Callable[[int, Described], None]) -> None:
        """Read the descriptions that have come, and give up on those that are overdue."""
        if self._pending:
            self._exchange.look(self._pending)
        for node, pending in list(self._pending.items()):
            if pending.done or time.monotonic() >= pending.end:
                asked = self._exchange.close(pending)
                self._meter.count(asked)
                del self._pending[node]
                self._reasons[node] = asked.failures[node]
        for node, read in list(self._heard.items()):
            del self._heard[node]
            if isinstance(read, str):
                self._reasons[node] = read
            else:
                self._reasons.pop(node, None)
                accept(node, read)

    def _admit(self, node: int, one: Described, nodes: Mapping[int, str]) -> None:
        """Make a described node a member, or take its new description. Its features must be those of the federation."""
        before = self.members.by_node().get(node)
        name = before.name if before else self._names[node] or one.claimed or fallback_name(node)
        same = next((member for member in self.members.members if member.name == name and member.node != node), None)
        if one.space != self._space:
            self._reasons[node] = OTHER_SPACE
        elif same and (same.node in nodes or (self._names[same.node] and not self._names[node])):
            self._reasons[node] = NAME_TAKEN
        else:
            others = [member for member in self.members.members if member.node != node and member is not same]
            members = sorted([*others, member_of(name, node, one)], key=lambda member: member.name)
            self.members = Members(tuple(members), self.members.dropped)
            self._doubted.discard(node)
            log.info("%s %s", name, "has described itself again" if before else "takes part from now on")

    def _states(self, nodes: Mapping[int, str]) -> dict[str, HospitalNow]:
        """How far the connected hospitals are with describing themselves."""
        members = self.members.by_node()
        found = {}
        for node in nodes:
            name = members[node].name if node in members else self._name(node)
            declined = HospitalNow("declined", self._reason(node)) if node in self._reasons else None
            found[name] = HospitalNow("answered") if node in members else declined or HospitalNow("asked")
        return dict(sorted(found.items()))

    def _grace_over(self, since: float | None) -> bool:
        grace_s = self._job.quorum.grace_s
        return grace_s is not None and since is not None and time.monotonic() >= since + grace_s

    def _reason(self, node: int) -> str:
        return self._reasons.get(node, NOT_DESCRIBED)

    def _name(self, node: int) -> str:
        """For the list of those outside; a member's name stays the member's."""
        name = self._names.get(node) or fallback_name(node)
        taken = any(member.name == name for member in self.members.members)
        return fallback_name(node) if taken else name

    def _too_few(self, nodes: Mapping[int, str], needed: int) -> str:
        if len(nodes) < needed:
            return (
                f"{len(nodes)} hospitals are connected after {self._job.quorum.deadline_s:g} s, the job needs {needed} "
                "(quorum.min_hospitals); start the missing ones or lower the quorum"
            )
        dropped = sorted(self.members.dropped.items())
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dropped) or "no other is connected"
        return (
            f"{len(self.members.members)} of {len(nodes)} hospitals can take part, the job needs {needed}: {reasons}. "
            "The reason in full is in that hospital's own log"
        )
