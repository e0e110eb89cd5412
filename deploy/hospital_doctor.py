"""What `consilium hospital doctor` looks at: the kit, the way to the coordinator, the agent, the machine, the data, a job."""

import importlib.metadata
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.agent_socket import is_serving, require_usable
from client.agent_status import read_status
from client.approvals import Approvals
from client.hospital_file import HospitalFile, load_hospital_file
from common.errors import ConsiliumError, Refusal
from common.job import Job
from deploy import checks
from deploy.findings import Finding, error, ok, warning
from deploy.health import Answer, https_answer
from deploy.hospital import run_folder, socket_path, trouble, without_network
from deploy.kit import CA, HOSPITAL, NODE_KEY, Kit, read_kit
from deploy.node_key import fingerprint, public_path, read_public_key
from deploy.supervisor import read_state

_WAIT_S = 5.0
_SKEW_S, _TOO_MUCH_SKEW_S = 2.0, 5.0


@dataclass(frozen=True)
class Patient:
    """What is examined: the kit's folder and settings, the hospital's own file, the agent's socket, and a job to look at."""

    folder: Path
    kit: Kit
    file: HospitalFile
    socket: Path
    job: Job | None = None


def examine(
    folder: Path, socket_at: Path | None = None, job: Job | None = None, file_at: Path | None = None
) -> list[Finding]:
    """All findings; what cannot be looked at is a finding too. file_at: another hospital file than that in the kit."""
    try:
        kit, file = read_kit(folder), load_hospital_file(file_at or folder / HOSPITAL)
    except (ConsiliumError, OSError) as problem:
        return [error("kit", str(problem), "mend what is named, and ask again")]
    patient = Patient(folder.resolve(), kit, file, socket_at or socket_path(folder), job)
    questions: list[Callable[[Patient], Iterator[Finding]]] = [_kit, _way, _registered, _agent, _machine, _data]
    if job is not None:
        questions.append(_job)
    return [finding for question in questions for finding in _asked(question, patient)]


def _asked(question: Callable[[Patient], Iterator[Finding]], patient: Patient) -> Iterator[Finding]:
    try:
        yield from question(patient)
    except (ConsiliumError, MemoryError, OSError) as problem:
        yield error(question.__name__.strip("_"), str(problem), "mend what is named, and ask again")


def _kit(patient: Patient) -> Iterator[Finding]:
    key = patient.folder / NODE_KEY
    if not key.is_file():
        yield error("node key", f"{key} is not there", "consilium hospital keygen")
    else:
        yield checks.private([key], "node key")
        yield ok("node key", f"its public half is {fingerprint(read_public_key(public_path(key)))}")
    if patient.kit.hospital != patient.file.name:
        yield warning(
            "name",
            f"hospital.yaml says {patient.file.name}, the kit {patient.kit.hospital}",
            "the coordinator knows this hospital by the kit's name; best use it here too",
        )
    yield checks.flower_version()
    own = importlib.metadata.version("consilium")
    if own == patient.kit.consilium:
        yield ok("consilium", own)
    else:
        yield warning(
            "consilium", f"{own} here, {patient.kit.consilium} at the coordinator", "install the same version at both"
        )


def _way(patient: Patient) -> Iterator[Finding]:
    """DNS, proxy, port, TLS, clock: from the nearest to the farthest."""
    kit = patient.kit
    yield checks.proxies([kit.host])
    known = checks.resolves(kit.host)
    yield known
    if known.level == "error":
        return
    try:
        socket.create_connection((kit.host, kit.port), _WAIT_S).close()
    except OSError as problem:
        yield error(
            "port",
            f"{kit.address} cannot be reached: {problem}",
            f"let this machine connect to {kit.host}, TCP port {kit.port}, in the firewall; or the coordinator is not up",
        )
        return
    yield ok("port", f"{kit.address} can be reached")
    try:
        answer = https_answer((kit.host, kit.port), kit.host, patient.folder / CA, timeout_s=_WAIT_S)
        behind = https_answer((kit.host, kit.port), kit.host, patient.folder / CA, "/v1/control/list-runs", _WAIT_S)
    except ssl.SSLError as problem:
        reason = getattr(problem, "verify_message", "") or problem.reason or str(problem)
        yield error(
            "TLS",
            f"{kit.address} is not the coordinator of this kit, or something is in between: {reason}",
            "ask the coordinator whether the certificate changed; an inspecting proxy must let this through",
        )
        return
    except OSError as problem:
        yield error("TLS", f"{kit.address} does not answer: {problem}", "ask the coordinator to look at its gateway")
        return
    yield from _answers(answer, behind)


def _answers(answer: Answer, behind: Answer) -> Iterator[Finding]:
    if answer.status == 200:
        yield ok("TLS", "the certificate is from the authority of this kit; the coordinator is well")
    else:
        yield error(
            "coordinator", f"/health answers {answer.status}", "ask the coordinator: its SuperLink does not answer"
        )
    if behind.status != 403:
        yield warning(
            "gateway",
            f"/v1/control answers {behind.status}, expected 403",
            "tell the coordinator: every hospital could start runs at every other",
        )
    if answer.date is None:
        return
    skew = time.time() - answer.date
    remedy = "keep the clock right (NTP): the node key signs the time, and the coordinator refuses what is off"
    if abs(skew) > _TOO_MUCH_SKEW_S:
        yield error("clock", f"{skew:+.0f} s from the coordinator's", remedy)
    elif abs(skew) > _SKEW_S:
        yield warning("clock", f"{skew:+.0f} s from the coordinator's", remedy)
    else:
        yield ok("clock", "as the coordinator's")


def _registered(patient: Patient) -> Iterator[Finding]:
    state = read_state(run_folder(patient.folder))
    if state is None:
        yield warning("registered", "not known while this hospital has not joined", "consilium hospital join")
        return
    for name, one in state.processes.items():
        if one.state != "ready":
            log = run_folder(patient.folder) / "logs" / f"{name}.log"
            why = trouble(patient.folder) if name == "supernode" else None
            yield error(name, f"{one.state}: {why or 'its log says more'}", f"see {log}")
    if state.processes["supernode"].state == "ready":
        yield ok("registered", "the coordinator let this hospital in")


def _agent(patient: Patient) -> Iterator[Finding]:
    require_usable(patient.socket)
    if not is_serving(patient.socket):
        yield warning("agent", f"nothing serves on {patient.socket}", "consilium hospital join, or serve")
    else:
        status = read_status(patient.file.state_folder)
        yield ok("agent", f"serves on {patient.socket}")
        if status is not None and status.problem:
            yield error(
                "agent", status.problem, "mend what it names; the job is prepared again when the agent restarts"
            )
    if without_network():
        yield ok("network", "the agent is started without one")
    else:
        yield warning(
            "network",
            "this machine does not let the agent give up its network",
            "run the agent in a container (docs/operations.md), or allow user namespaces",
        )
    waiting = [one for one in Approvals(patient.file.state_folder).known() if one.approved is None]
    if waiting:
        yield warning("jobs", f"{len(waiting)} wait for approval", "consilium hospital jobs")


def _machine(patient: Patient) -> Iterator[Finding]:
    from client.device import choose_device, cuda_devices

    device = choose_device(patient.file.device)
    if device.type == "cpu" and not cuda_devices():
        yield warning("device", "cpu", "it works; a GPU makes the features of new images ten to a hundred times sooner")
    else:
        yield ok("device", str(device))
    for folder in (patient.file.cache_folder, patient.file.state_folder):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        yield checks.disk(existing, f"disk of {folder.name}")
        if not os.access(existing, os.W_OK):
            yield error(folder.name, f"{existing} cannot be written", f"give it to the user {os.geteuid()}")


def _data(patient: Patient) -> Iterator[Finding]:
    from client.records import read_rows

    source = patient.file.data.source
    rows = read_rows(source, patient.file.key_folder)
    gone = [row for row in rows if not row.path.exists()]
    if gone:
        yield error("data", f"{len(gone)} of {len(rows)} images in {source} are not there", f"consilium check {source}")
    else:
        patients = len({row.patient_id for row in rows})
        yield ok("data", f"{len(rows)} images of {patients} patients in {source}")


def _job(patient: Patient) -> Iterator[Finding]:
    """Whether this hospital could take part in a job: its policy, its weights, its images."""
    from client.policy import require_backbone, require_enough, require_policy
    from client.preparation import shared_backbone
    from client.records import assign, read_rows

    job = patient.job
    if job is None:
        return
    require_policy(patient.file.policy, job)
    if patient.file.policy.approve == "manual" and not Approvals(patient.file.state_folder).allows(job.job_id):
        yield warning("job", f"'{job.name}' is not approved", f"consilium hospital approve {job.job_id[:12]}")
    else:
        yield ok("job", f"'{job.name}' is approved")
    backbone = shared_backbone(job.backbone, patient.file.weights_dir)
    require_backbone(patient.file.policy, job, backbone.digest)
    yield ok("weights", f"{job.backbone.name}, digest {backbone.digest}")
    records = assign(read_rows(patient.file.data.source, patient.file.key_folder), job)
    try:
        require_enough(patient.file.policy, job, records)
    except Refusal as refusal:
        yield error("examples", str(refusal), "it will decline this job")
    else:
        yield ok("examples", f"{len(records.of('train'))} training images")
