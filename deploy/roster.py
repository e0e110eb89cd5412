"""The roster: the public node keys of all hospitals of a federation, as a file of every kit.

With it hospitals know each other, whatever the coordinator says later (`common.secure_sum.roster`).
"""

from collections.abc import Mapping

from common.secure_sum.roster import Roster, parse_roster


def roster_text(keys: Mapping[str, str]) -> str:
    """The file, from the public line of each hospital that has sent one."""
    return parse_roster(Roster(keys).text()).text()
