"""Which hospitals' keys the SuperLink knows.

The SuperLink forgets nothing over a restart; what it was told is written down in state/nodes.json, because it does not say whose
key a node has.
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from common.artifact import write_atomically
from common.errors import ConsiliumError, FederationError
from deploy.federation import Federation
from deploy.flower import Flower

log = logging.getLogger(__name__)

_FILE = "nodes.json"


@dataclass(frozen=True)
class Registration:
    """A key that the SuperLink knows, and the node it stands for."""

    node_id: int
    fingerprint: str


class Registering:
    """Registers the keys once, in a thread, because Flower's command line takes its time."""

    def __init__(self, federation: Federation, flower: Flower) -> None:
        self._federation, self._flower = federation, flower
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def done(self) -> bool:
        """Whether it is over, well or not; the first call begins it. What went wrong is logged, and `status` shows it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self._over.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is over."""
        return self._over.wait(timeout_s)

    def _run(self) -> None:
        try:
            for line in synchronise(self._federation, self._flower):
                log.info("%s", line)
        except ConsiliumError as error:
            log.warning("the hospitals' keys could not be registered: %s", error)
        finally:
            self._over.set()


def synchronise(federation: Federation, flower: Flower) -> list[str]:
    """Make the SuperLink know the keys that are here and forget those that were; says what was changed, a line each.

    Raises:
        FederationError: the SuperLink cannot be asked, or refuses.
    """
    wanted = {name: print_ for name, print_ in federation.settings.hospitals.items() if print_}
    known = registrations(federation)
    changed: list[str] = []
    there = {node.node_id for node in flower.supernodes()}
    known = {name: one for name, one in known.items() if one.node_id in there}
    for name, one in list(known.items()):
        if wanted.get(name) != one.fingerprint:
            flower.unregister(one.node_id)
            del known[name]
            _keep(federation, known)
            changed.append(f"{name}: the key {one.fingerprint} is no longer registered")
    for name, print_ in wanted.items():
        if name not in known:
            known[name] = Registration(_register(federation, flower, name), print_)
            _keep(federation, known)
            changed.append(f"{name}: registered {print_}")
    return changed


def _register(federation: Federation, flower: Flower, name: str) -> int:
    try:
        return flower.register(federation.key(name), name)
    except FederationError as error:
        hint = ""
        if "already in use" in str(error).lower():
            hint = (
                ". Flower never takes back a key that was unregistered: the hospital must make a new one. If it was not, "
                f"{federation.state / _FILE} is lost: restore it from a backup"
            )
        raise FederationError(f"cannot register {name} ({federation.key(name)}): {error}{hint}") from error


def registrations(federation: Federation) -> dict[str, Registration]:
    """What was registered by hospital, as far as is known here; the SuperLink need not run."""
    try:
        content = json.loads((federation.state / _FILE).read_text(encoding="utf-8"))
        return {name: Registration(**one) for name, one in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(federation: Federation, known: Mapping[str, Registration]) -> None:
    content = {name: asdict(one) for name, one in known.items()}
    write_atomically(federation.state / _FILE, json.dumps(content, indent=1), 0o600)
