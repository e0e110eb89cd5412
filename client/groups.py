"""By which groups of patients a hospital tells how well a model does: none small, and none that subtraction would make known.

All counts of the test patients leave as well (`evaluate`), so what is told of groups also tells the rest. So of each attribute:

1. A group is told where it has test patients enough of every class: `common.groups.LEAST_PATIENTS`, or the hospital's
   `min_count`.
2. The images outside all told groups, of other groups and of patients without a value, must be as many. As long as they are
   not, the smallest told group is withheld, too. Only where every group is told and nobody is without a value is there no rest.
3. A withheld group's counts are 0, as are those of a hospital that does not know the attribute: nobody can tell them apart.

With `min_count` above 1 the counts are of the very images that `evaluate` tells (`client/suppression.py`), parted by group: over
the groups and the rest they add up to its confusion matrix, and no further image shows.

Attributes are not crossed: nothing is told of women of 60 to 79 years.

Letters: N test images, C classes, G groups.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.records import Record
from common.groups import GROUPS
from common.metrics import Float64, Int64

OUTSIDE = -1
"""Place of a record's group among those of the attribute where it is in none."""


def group_counts(
    probabilities: Float64,
    records: Sequence[Record],
    attributes: Sequence[str],
    times: Int64,
    least: int,
) -> Int64:
    """Confusion matrices (G, C, C) of probabilities (N, C); times (N,): how often each record is told.

    least: patients of every class that a group and the rest must have.
    """
    classes = probabilities.shape[1]
    labels = np.array([record.label for record in records], np.int64)
    predicted = probabilities.argmax(axis=1)
    found = []
    for place, attribute in enumerate(attributes):
        groups = np.array([record.groups[place] for record in records], np.int64)
        told = told_groups(
            groups, labels, [record.patient_id for record in records], len(GROUPS[attribute]), classes, least
        )
        for group in range(len(GROUPS[attribute])):
            confusion = np.zeros((classes, classes), np.int64)
            rows = groups == group
            if group in told:
                np.add.at(confusion, (labels[rows], predicted[rows]), times[rows])
            found.append(confusion)
    return np.stack(found)


def told_groups(
    groups: Int64, labels: Int64, patients: Sequence[str], number: int, classes: int, least: int
) -> frozenset[int]:
    """Which of an attribute's `number` groups are told; groups (N,): `OUTSIDE`, or the group of each image."""
    ids = np.unique(np.array(patients, dtype=object), return_inverse=True)[1] if len(groups) else groups

    def enough(rows: npt.NDArray[np.bool_]) -> bool:
        return all(len(np.unique(ids[rows & (labels == label)])) >= least for label in range(classes))

    told = {group for group in range(number) if enough(groups == group)}
    while told:
        rest = ~np.isin(groups, list(told))
        if enough(rest) or (len(told) == number and not rest.any()):
            break
        told.remove(min(told, key=lambda group: (int((groups == group).sum()), group)))
    return frozenset(told)
