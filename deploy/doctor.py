"""What `consilium coordinator doctor` looks at, from the files to what hospitals reach."""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import ConfigError, ConsiliumError
from common.job import load_job
from deploy import checks
from deploy.certificates import CA, CA_KEY, SERVER, SERVER_KEY, chain_problem, inspect
from deploy.coordinator import flower_of, is_up, own_address, superlink_address, taken_ports
from deploy.federation import Federation, lacking_names
from deploy.findings import Finding, error, ok, warning
from deploy.flower import Flower
from deploy.gateway import check_config, find_nginx, gateway_of, write_config
from deploy.health import https_status
from deploy.node_key import fingerprint, read_public_key
from deploy.processes import flower_environment
from deploy.registration import registrations
from deploy.supervisor import read_state
from server.strategies import hospitals_needed

_SOON_DAYS, _VERY_SOON_DAYS = 30, 7
_PROVISION = "consilium coordinator provision"


def examine(federation: Federation, job: Path | None = None) -> list[Finding]:
    """All findings; what cannot be looked at is a finding too."""
    questions: list[Callable[[Federation], Iterator[Finding]]] = [
        _files,
        _certificate,
        _network,
        _gateway,
        _processes,
        _hospitals,
    ]
    found = [finding for ask in questions for finding in _asked(lambda ask=ask: ask(federation))]  # type: ignore[misc]
    return found + ([*_asked(lambda: _job(federation, job))] if job else [])


def _asked(question: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from question()
    except (ConsiliumError, OSError) as problem:
        yield error("", str(problem), "see above; the remedy is in the sentence")


def _files(federation: Federation) -> Iterator[Finding]:
    certificates = federation.certificates
    yield checks.private(
        (federation.folder, certificates, certificates / CA_KEY, certificates / SERVER_KEY, federation.state)
    )
    yield checks.disk(federation.folder)
    yield checks.flower_version()
    if os.geteuid() == 0:
        yield warning(
            "user", "this is root", "run the coordinator as a user of its own; it needs no privileges above port 1023"
        )


def _certificate(federation: Federation) -> Iterator[Finding]:
    facts = inspect(federation.certificates / SERVER)
    yield checks.clock(federation.folder, facts.not_before.timestamp())
    if problem := chain_problem(federation.certificates):
        yield error("certificate", problem, f"restore the folder certificates/ from a backup, or {_PROVISION} --renew")
    elif facts.days_left < _SOON_DAYS:
        level = error if facts.days_left < _VERY_SOON_DAYS else warning
        remedy = f"{_PROVISION} --renew, then restart; kits stay valid"
        yield level("certificate", f"{facts.days_left:.0f} days left", remedy)
    else:
        yield ok("certificate", f"{facts.days_left:.0f} days left, for {', '.join(facts.names)}")
    days = inspect(federation.certificates / CA).days_left
    if days < 400:
        yield warning(
            "authority", f"{days:.0f} days left", "make a new federation in time; every hospital needs a new kit then"
        )
    if missing := lacking_names(federation):
        yield error("certificate", f"it lacks {', '.join(missing)}", f"{_PROVISION} --renew")


def _network(federation: Federation) -> Iterator[Finding]:
    settings = federation.settings
    yield checks.resolves(settings.host)
    yield checks.proxies(("127.0.0.1", "localhost"), flower_environment(federation.folder))
    running = read_state(federation.folder) is not None
    taken = taken_ports(federation)
    if taken and not running:
        remedy = f"end that program, or choose others: {_PROVISION} --port PORT --superlink-port PORT"
        yield error("ports", f"another program listens on {', '.join(map(str, taken))}", remedy)
    else:
        ports = f"{settings.port} and {settings.superlink_port}"
        yield ok("ports", f"{ports} are ours" if running else f"{ports} are free")


def _gateway(federation: Federation) -> Iterator[Finding]:
    try:
        where = find_nginx()
    except ConfigError as problem:
        yield error("nginx", str(problem), "make nginx")
        return
    if wrong := check_config(write_config(gateway_of(federation))):
        yield error("nginx", wrong, "mend what nginx names; its configuration is written anew each time")
    else:
        yield ok("nginx", f"{where} accepts the configuration")


def _processes(federation: Federation) -> Iterator[Finding]:
    state = read_state(federation.folder)
    up = "consilium coordinator up"
    if state is None and not is_up(federation):
        yield warning("coordinator", "not up", up)
        return
    for name, one in state.processes.items() if state else ():
        if one.state != "ready":
            yield error(name, one.state, f"see {federation.folder / 'logs' / f'{name}.log'}")
        elif one.restarts:
            yield warning(
                name, f"started again {one.restarts} times", f"see {federation.folder / 'logs' / f'{name}.log'}"
            )
    superlink = superlink_address(federation)
    yield _answers("superlink", superlink, superlink[0], federation.ca, "/health", 200)
    settings = federation.settings
    gateway = (own_address(settings.listen), settings.port)
    yield _answers("gateway", gateway, settings.host, federation.ca, "/health", 200)
    yield _answers("gateway", gateway, settings.host, federation.ca, "/v1/control/list-runs", 403)


def _answers(check: str, address: tuple[str, int], name: str, ca: Path, path: str, expected: int) -> Finding:
    place = f"{path} at {address[0]}:{address[1]}"
    try:
        status = https_status(address, name, ca, path, 5.0)
    except ssl.SSLCertVerificationError as problem:
        return error(check, f"{place}: {problem.verify_message}", f"{_PROVISION} --renew, then restart")
    except OSError as problem:
        return error(
            check, f"{place} does not answer: {problem}", f"see logs/{check}.log; consilium coordinator status"
        )
    if status == expected:
        return ok(check, f"{place} answers {status}" + (", as it must" if status == 403 else ""))
    return error(check, f"{place} answers {status}, expected {expected}", f"see logs/{check}.log")


def _hospitals(federation: Federation) -> Iterator[Finding]:
    if not federation.settings.hospitals:
        yield warning("hospitals", "none", f"{_PROVISION} --hospital NAME")
        return
    nodes = _statuses(flower_of(federation)) if is_up(federation) else None
    known = registrations(federation)
    for name, expected in federation.settings.hospitals.items():
        if expected is None:
            yield warning(name, "has not sent its key", f"when it comes: {_PROVISION} --register {name}=node_key.pub")
            continue
        try:
            print_ = fingerprint(read_public_key(federation.key(name)))
        except ConfigError as problem:
            yield error(name, str(problem), f"{_PROVISION} --register {name}=node_key.pub")
            continue
        registered = known.get(name)
        if print_ != expected:
            yield error(
                name, f"{federation.key(name)} is not the key {expected}", "find out who changed it; restore it"
            )
        elif (
            registered is None
            or registered.fingerprint != expected
            or (nodes is not None and registered.node_id not in nodes)
        ):
            level = error if nodes is not None else warning
            yield level(
                name, "its key is not registered", "consilium coordinator up registers it; restart it if it is up"
            )
        elif nodes is None:
            yield ok(name, "registered")
        elif nodes[registered.node_id] == "online":
            yield ok(name, "registered and connected")
        else:
            yield warning(name, "registered, not connected", "ask it to run `consilium hospital doctor`")
    for stranger in sorted((nodes or {}).keys() - {one.node_id for one in known.values()}):
        home = federation.flower_home("cli")
        remedy = f"if nobody here knows it: FLWR_HOME={home} flwr supernode unregister {stranger}"
        yield warning("hospitals", f"node {stranger} is registered, and nothing here says whose it is", remedy)


def _statuses(flower: Flower) -> dict[int, str]:
    return {node.node_id: node.status for node in flower.supernodes()}


def _job(federation: Federation, path: Path) -> Iterator[Finding]:
    try:
        job = load_job(path)
    except ConfigError as problem:
        yield error("job", str(problem), f"mend {path}")
        return
    with_keys = sum(print_ is not None for print_ in federation.settings.hospitals.values())
    needed = max(job.quorum.min_hospitals, hospitals_needed(job.method))
    if with_keys < needed:
        yield error(
            "job", f"'{job.name}' needs {needed} hospitals, {with_keys} have sent keys", f"{_PROVISION} --hospital NAME"
        )
    else:
        yield ok("job", f"'{job.name}' is valid, {with_keys} hospitals for at least {needed}; job id {job.job_id}")
