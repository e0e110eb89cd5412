"""The coordinator's processes on one machine, and which hospitals the SuperLink knows.

    superlink   Flower's server: on the loopback interface only, TLS, node keys, its state in SQLite
    executor    Flower's SuperExec: starts the ServerApp of each run with this Python installation
    gateway     nginx: what hospitals connect to

The SuperLink can die and come back during a run: executor and ServerApp are processes of their own and go on.
"""

import os
from collections.abc import Callable

from common.errors import ConfigError
from deploy.certificates import CA, SERVER, SERVER_KEY
from deploy.federation import Federation
from deploy.flower import Flower
from deploy.gateway import check_config, command, gateway_of, write_config
from deploy.health import is_healthy, is_port_taken
from deploy.processes import executor_secret, flower_environment, tool
from deploy.registration import Registering
from deploy.supervisor import Process, State, supervise

SUPERLINK, EXECUTOR, GATEWAY = "superlink", "executor", "gateway"
SUPERLINK_VARIABLE = "CONSILIUM_SUPERLINK"
"""HOST:PORT of a SuperLink that runs elsewhere, in containers; by default it is on this machine."""


def superlink_address(federation: Federation) -> tuple[str, int]:
    """Where the SuperLink is.

    Raises:
        ConfigError: the environment variable is not HOST:PORT.
    """
    given = os.environ.get(SUPERLINK_VARIABLE)
    if not given:
        return "127.0.0.1", federation.settings.superlink_port
    host, _, port = given.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{SUPERLINK_VARIABLE}: expected HOST:PORT, as superlink:8000, got '{given}'")
    return host, int(port)


def flower_of(federation: Federation) -> Flower:
    """The federation's SuperLink, to be asked."""
    host, port = superlink_address(federation)
    return Flower(f"{host}:{port}", federation.ca, federation.flower_home("cli"))


def is_up(federation: Federation) -> bool:
    """Whether the SuperLink answers."""
    address = superlink_address(federation)
    return is_healthy(address, address[0], federation.ca)


def require_up(federation: Federation) -> Flower:
    """The SuperLink, which answers.

    Raises:
        ConfigError: it does not.
    """
    if not is_up(federation):
        host, port = superlink_address(federation)
        raise ConfigError(
            f"the coordinator is not up: no SuperLink answers at {host}:{port}. Start it in another terminal, or with --detach: "
            f"consilium coordinator up --folder {federation.folder}"
        )
    return flower_of(federation)


def up(federation: Federation, on_state: Callable[[State], None] | None = None) -> None:
    """Run the coordinator's processes in the foreground until a signal; hospitals' keys are registered before any can call.

    Raises:
        ConfigError: it runs already, nginx is missing, or a port is taken by something else.
        FederationError: a process died again and again.
    """
    supervise(federation.folder, processes(federation), on_state, lambda: _require_free_ports(federation))


def processes(federation: Federation) -> list[Process]:
    """What `up` keeps running. The SuperLink is ready when the hospitals' keys are registered; the others wait for that.

    Raises:
        ConfigError: nginx is missing or finds its configuration wrong.
    """
    settings, certificates = federation.settings, federation.certificates
    superlink, gateway = ("127.0.0.1", settings.superlink_port), (own_address(settings.listen), settings.port)
    config = write_config(gateway_of(federation))
    if problem := check_config(config):
        raise ConfigError(f"the gateway cannot run: {problem}")
    starting = Registering(federation, flower_of(federation))
    secret = executor_secret(federation.state / "executor.secret")
    return [
        Process(
            SUPERLINK,
            [
                tool("flower-superlink"),
                *("--ssl-ca-certfile", str(certificates / CA)),
                *("--ssl-certfile", str(certificates / SERVER), "--ssl-keyfile", str(certificates / SERVER_KEY)),
                *("--enable-supernode-auth", "--host", superlink[0], "--port", str(superlink[1])),
                *("--database", str(federation.state / "superlink.db"), "--isolation", "process", *secret),
                "--disable-runtime-dependency-installation",
            ],
            flower_environment(federation.flower_home(SUPERLINK)),
            federation.folder,
            ready=lambda: is_healthy(superlink, "127.0.0.1", federation.ca) and starting.done(),
        ),
        Process(
            EXECUTOR,
            [
                tool("flower-superexec"),
                *("--root-certificates", str(federation.ca)),
                *("--runtime-api-address", f"{superlink[0]}:{superlink[1]}", *secret),
            ],
            flower_environment(federation.flower_home(EXECUTOR)),
            federation.folder,
            after=(SUPERLINK,),
        ),
        Process(
            GATEWAY,
            command(config),
            flower_environment(federation.flower_home(GATEWAY)),
            federation.gateway,
            ready=lambda: is_healthy(gateway, settings.host, federation.ca),
            after=(SUPERLINK,),
        ),
    ]


def taken_ports(federation: Federation) -> list[int]:
    """The coordinator's ports on which something listens."""
    settings = federation.settings
    wanted = (("127.0.0.1", settings.superlink_port), (own_address(settings.listen), settings.port))
    return [port for host, port in wanted if is_port_taken((host, port))]


def _require_free_ports(federation: Federation) -> None:
    if taken := taken_ports(federation):
        raise ConfigError(
            f"port {' and port '.join(map(str, taken))} is taken by another program on this machine; end that one, or choose "
            "other ports with `consilium coordinator provision --port PORT --superlink-port PORT`"
        )


def own_address(listen: str) -> str:
    """An address of this machine at which `listen` can be reached."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)  # noqa: S104
