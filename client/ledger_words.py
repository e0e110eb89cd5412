"""What is in a ledger, in words for people who do not know the contract."""

from collections.abc import Mapping

from client.ledger_entry import Entry
from common.errors import RefusalCode

KINDS: Mapping[str, str] = {
    "describe": "How many images and patients there are, by class and part, and sums over the features of all training images.",
    "initial": "The published weights of the network that the job trains on: the same at every hospital.",
    "statistics": "Sums over the features of all training images, by class, from which the model is computed in one step.",
    "fit": "The model after local training, and counts of how the model before did on validation patients.",
    "evaluate": "Counts of how models of the coordinator did on validation or test patients.",
    "distances": "Counts of how far validation images lie from the training images of all hospitals, by class, in steps.",
    "own": "A model trained on this hospital's patients alone, to be tested at the other hospitals.",
    "personalise": "Counts of how the common, the personalised and this hospital's own model did on its patients.",
    "duplicates": "Keyed hashes of the images, by which the coordinator counts how many of them another hospital has too.",
    "collisions": "Nothing: this hospital was told which of its images another hospital has too.",
    "groups": "Counts of how the model did on test patients by sex or age band; small groups are withheld.",
    "keys": "Secure aggregation: this hospital's keys for one session. Random numbers.",
    "shares": "Secure aggregation: parts of this hospital's secrets, sealed for the other hospitals. Random numbers.",
    "masked": "This hospital's part of a sum, masked: only the sum over hospitals can be read. `purpose` says which sum.",
    "confirm": "Secure aggregation: a signature of the list of hospitals that are left.",
    "unmask": "Secure aggregation: the shares by which the sum over hospitals is opened, once.",
    "unknown": "A request of no known kind.",
}
"""By kind of message: what its answer says."""

CODES: Mapping[str, str] = {
    RefusalCode.BAD_REQUEST: "The request was not what the contract allows.",
    RefusalCode.JOB_NOT_APPROVED: "Nobody here has approved the job.",
    RefusalCode.AGAINST_POLICY: "The hospital's policy does not allow it.",
    RefusalCode.TOO_FEW_EXAMPLES: "There are too few images for the job.",
    RefusalCode.DATA_PROBLEM: "The images could not be used.",
    RefusalCode.WEIGHTS_PROBLEM: "The network's weights could not be had.",
    RefusalCode.OUT_OF_MEMORY: "The machine had too little memory.",
    RefusalCode.DISK_FULL: "The disk was full, so nothing could be recorded, and nothing left.",
    RefusalCode.AGENT_UNAVAILABLE: "The agent was away.",
    RefusalCode.DEADLINE_PASSED: "It was too late to answer.",
    RefusalCode.MESSAGE_TOO_LARGE: "The message was too large.",
    RefusalCode.SECURE_SUM: "A session of secure aggregation was not as it must be; nothing was opened.",
    RefusalCode.BUDGET_SPENT: "The hospital's budget of epsilon does not allow it any more.",
    RefusalCode.INTERNAL: "Something failed here; the agent's log says what.",
}
"""By neutral code: why an answer was refused."""


def size(count: float) -> str:
    """Bytes in kB, MB or GB (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def shown_arrays(entry: Entry, most: int = 4) -> str:
    """The arrays of an entry by name, dtype and shape; of many, the largest."""
    largest = sorted(entry.arrays, key=lambda one: -one.bytes)
    words = [f"{one.name} {one.dtype} {'×'.join(map(str, one.shape))}" for one in largest[:most]]
    return ", ".join([*words, f"and {len(largest) - most} more"] if len(largest) > most else words)


def repair_in_words(entry: Entry) -> str:
    """What a `repaired` entry reports."""
    if entry.about.get("what") == "unsent":
        return f"The answer of entry {entry.about.get('entry')} never left: the agent was cut off right after it wrote the entry."
    return (
        f"The agent was cut off while it wrote after entry {entry.about.get('after')}; that answer never left, and the half line "
        f"({entry.about.get('bytes')} bytes) was removed."
    )
