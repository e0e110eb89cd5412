"""What simulated hospitals need for secure aggregation: node keys, a roster, and a state folder, for one run only."""

from collections.abc import Sequence
from pathlib import Path

from common.artifact import write_atomically
from common.secure_sum.roster import Roster
from deploy.kit import NODE_KEY, ROSTER
from deploy.node_key import make_node_key, public_path, read_public_key


def make_kits(folder: Path, hospitals: Sequence[str]) -> dict[str, dict[str, str]]:
    """Make a key for each hospital and one roster, and return what each adds to its node config."""
    keys, lines = {}, {}
    for name in hospitals:
        keys[name] = folder / name / NODE_KEY
        keys[name].parent.mkdir()
        make_node_key(keys[name])
        lines[name] = read_public_key(public_path(keys[name]))
    write_atomically(folder / ROSTER, Roster(lines).text())
    return {
        name: {"node-key": str(key), "roster": str(folder / ROSTER), "state-dir": str(folder / name / "state")}
        for name, key in keys.items()
    }
