"""Hospitals that are simulated in this process train side by side, before each is asked: one computation in place of hundreds.

What is computed here leaves no hospital: each still gets its own request, looks at its policy, and answers as always;
it only finds its head trained already (`client/training_together.py`). Whatever is not plain, each trains for itself.
"""

import logging
from collections.abc import Mapping, Sequence

from client.app import hospitals, settings_of
from client.participation import Participation
from client.training_together import Exercise, can_train_together, train_together
from common.messages import unpack_model, unpack_standardisation
from common.packed import Packed

log = logging.getLogger(__name__)

LEAST = 16
"""Hospitals below which each trains by itself, to the same bits as in every other engine."""


def train_ahead(request: Packed, nodes: Sequence[Mapping[str, str | int | float | bool]]) -> None:
    """Train what a request to `fit` asks of the hospitals behind some node configs; a wrong request is left to them."""
    if len(nodes) < LEAST:
        return
    try:
        found = _exercises(request, nodes)
        if len(found) >= LEAST:
            trained = train_together([exercise for _, exercise in found])
            for (part, exercise), one in zip(found, trained, strict=True):
                part.trained_ahead(exercise, one)
    except Exception as error:  # each hospital will meet the same, and decline in its own words
        log.debug("hospitals do not train together: %s", type(error).__name__, exc_info=True)


def _exercises(
    request: Packed, nodes: Sequence[Mapping[str, str | int | float | bool]]
) -> list[tuple[Participation, Exercise]]:
    start, standardisation = unpack_model(request.arrays), unpack_standardisation(request.arrays)
    text, number = str(request.fields["job"]), int(request.fields["round"])
    found = []
    for node in nodes:
        hospital = hospitals.get(settings_of(node))
        part = hospital.part_in(text) if hospital is not None else None
        exercise = part.exercise(start, standardisation, number) if part is not None else None
        if part is not None and exercise is not None and can_train_together(exercise):
            found.append((part, exercise))
    return found
