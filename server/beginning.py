"""What is settled before the first round: who takes part, how features are standardised, what the backbone starts from."""

from common.errors import ArtifactError, FederationError
from common.head import Float32
from common.job import Job
from common.messages import unpack_below
from common.model import TUNED
from server.checkpoint import Checkpoint
from server.exchange import Exchange
from server.failures import Failures
from server.members import Members
from server.membership import Membership
from server.meter import Meter
from server.now import Watch
from server.questions import Questions, listed
from server.strategies import answers_needed


def describe(
    job: Job, exchange: Exchange, meter: Meter, failures: Failures, watch: Watch = lambda _now: None
) -> Membership:
    """The hospitals that take part, by what they say of themselves. watch: told who is waited for.

    Raises:
        FederationError: too few hospitals take part.
    """
    membership = Membership(job, exchange, meter, failures, watch)
    membership.gather(answers_needed(job))
    return membership


def require_same_job(job: Job, members: Members, resume: Checkpoint | None) -> None:
    """Go on from a checkpoint only where it belongs.

    Raises:
        ArtifactError: `resume` is of another job or another feature space.
    """
    if resume and (resume.job_id, resume.fingerprint) != (job.job_id, members.fingerprint):
        raise ArtifactError("the checkpoint is of another job or another feature space; resume the job it was made by")


def initial_arrays(questions: Questions) -> dict[str, Float32]:
    """The backbone's arrays that the job tunes, as pretrained: from one hospital, with the digest that all declared.

    Their shapes are not known here, so a hostile hospital could send others; the digest rules that out.

    Raises:
        FederationError: no hospital sent them.
    """
    reasons: dict[str, str] = {}
    for node, member in questions.members.by_node().items():
        told = questions.ask("initial", nodes={node: member.name})
        reasons |= told.dropped
        for reply in told.good.values():
            return unpack_below(TUNED, reply.arrays)
    raise FederationError(f"no hospital sent the pretrained arrays that the job tunes: {listed(reasons)}")
