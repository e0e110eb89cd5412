"""What is summed: which numbers, of which job, for what. Coordinator and hospital each know it by themselves."""

import secrets
from dataclasses import dataclass

from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Layout
from common.secure_sum.roster import Roster
from common.secure_sum.terms import Terms, default_threshold


@dataclass(frozen=True)
class Subject:
    """job_id: the job. purpose: which of its sums, such as `statistics` or `fit:7`. layout: its arrays.

    question: digest (64 hex digits) of what is asked. A hospital learns it from the terms, and holds what comes in the phase
    MASKED to it; all must have signed the same.
    """

    job_id: str
    purpose: str
    layout: Layout
    question: str

    def terms(self, roster: Roster, hospitals: int, threshold: int | None = None) -> Terms:
        """Terms of a new session with so many hospitals; threshold: `default_threshold` if None.

        Raises:
            SecureSumError: no hospital would take part on them, as with a single hospital or with a low threshold.
        """
        terms = Terms(
            session=secrets.token_hex(32),
            job_id=self.job_id,
            purpose=self.purpose,
            question=self.question,
            roster=roster.digest,
            layout=self.layout.digest,
            hospitals=hospitals,
            threshold=default_threshold(hospitals) if threshold is None else threshold,
        )
        problem = terms.problem()
        if problem:
            raise SecureSumError(problem)
        return terms
