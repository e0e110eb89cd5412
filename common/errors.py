"""Every error a person, a file or a message can cause.

    ConsiliumError            exit code 1
    ├── ConfigError           2  a job file, a hospital file or an option is wrong
    ├── DataError             3  images, manifests or feature caches are not usable
    │   └── NotDeliveredError    a PACS is there, and does not deliver what was asked for
    ├── WeightsError          4  backbone weights cannot be had or are not the ones named
    ├── ArtifactError         5  a model file is not one of ours, or is damaged
    ├── FederationError       6  the run could not go on (quorum lost, no usable update)
    ├── StorageError          7  the run directory cannot be written (disk full)
    └── LedgerError           8  a hospital's ledger was changed, or cannot be read or written

    Refusal                   a hospital declines a request; only its neutral code leaves the hospital

Messages say what, where, expected, got, and what to do. They may name files and paths, so they are for the person at
the keyboard: nothing but a `RefusalCode` ever leaves a hospital.
"""

from enum import StrEnum


class ConsiliumError(Exception):
    """Root of all errors that are not bugs; `exit_code` is what the command line exits with."""

    exit_code = 1


class ConfigError(ConsiliumError):
    """A job file, a hospital file or an option is wrong."""

    exit_code = 2


class DataError(ConsiliumError):
    """Images, manifests or caches are not usable."""

    exit_code = 3


class NotDeliveredError(DataError):
    """A PACS is there, and does not deliver what was asked for; other images may be had."""


class WeightsError(ConsiliumError):
    """Backbone weights cannot be had, or are not the ones named."""

    exit_code = 4


class ArtifactError(ConsiliumError):
    """A model file is not one of ours, or is damaged."""

    exit_code = 5


class FederationError(ConsiliumError):
    """The run could not go on: too few hospitals answered, or no update was usable."""

    exit_code = 6


class StorageError(ConsiliumError):
    """The run directory cannot be written; the last good checkpoint is as it was."""

    exit_code = 7


class LedgerError(ConsiliumError):
    """A hospital's ledger was changed, or cannot be read or written. Without it no answer leaves."""

    exit_code = 8


class RefusalCode(StrEnum):
    """Why a hospital did not answer, in words that say nothing about its patients or its machine."""

    BAD_REQUEST = "bad-request"
    JOB_NOT_APPROVED = "job-not-approved"
    AGAINST_POLICY = "against-policy"
    TOO_FEW_EXAMPLES = "too-few-examples"
    DATA_PROBLEM = "data-problem"
    WEIGHTS_PROBLEM = "weights-problem"
    OUT_OF_MEMORY = "out-of-memory"
    DISK_FULL = "disk-full"
    AGENT_UNAVAILABLE = "agent-unavailable"
    DEADLINE_PASSED = "deadline-passed"
    MESSAGE_TOO_LARGE = "message-too-large"
    SECURE_SUM = "secure-sum"
    BUDGET_SPENT = "budget-spent"
    INTERNAL = "internal-error"


class Refusal(ConsiliumError):  # noqa: N818  an answer of the protocol, not a fault
    """A hospital declines a request.

    `code` is what the coordinator learns; the message stays in the hospital's own log.
    """

    exit_code = 3

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.code = code
