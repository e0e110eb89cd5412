"""consilium coordinator web, consilium hospital web: pages on this machine, behind a token."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.coordinator_options import HERE as FEDERATION
from cli.coordinator_options import Folder
from cli.hospital_options import HERE, File, Kit, hospital_file
from cli.options import BatchNorm, Device, Personal, WeightsDir
from common.errors import ConfigError

Host = Annotated[str, typer.Option(help="The address to listen on; another than loopback needs --url.", metavar="IP")]
Url = Annotated[
    str | None,
    typer.Option(help="Where people find the page, if a proxy with TLS is before it: https://HOST.", metavar="URL"),
]


def coordinator_web(
    folder: Folder = FEDERATION,
    runs: Annotated[
        Path | None,
        typer.Option(help="A folder with run directories, instead of the federation's.", metavar="DIR"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8470,
    host: Host = "127.0.0.1",
    url: Url = None,
) -> None:
    """Runs as they go and finished runs side by side, in a browser. Prints the address, with its token, once; Ctrl-C ends it."""
    from common.web.access import Access
    from common.web.gate import Rules
    from common.web.serving import require_safe, serve
    from server.web.pages import make_site

    require_safe(host, url)
    if runs is None:
        from deploy.federation import load

        runs = load(folder).runs
    elif not runs.is_dir():
        raise ConfigError(f"--runs: {runs} is no folder; give the one that holds run directories")
    access = Access("consilium-coordinator")
    serve(make_site(runs, Rules(access, url)).asgi, access, host, port, url, _say)


def hospital_web(
    kit: Kit = HERE,
    file: File = None,
    model: Annotated[
        Path | None,
        typer.Option(help="model.safetensors of a finished run, for the bedside page.", metavar="FILE"),
    ] = None,
    refer_below: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Under this probability the answer is 'refer to a radiologist'.")
    ] = 0.8,
    personal: Personal = None,
    batch_norm: BatchNorm = None,
    weights_dir: WeightsDir = None,
    device: Device = "auto",
    max_upload_mb: Annotated[int, typer.Option(min=1, max=2000, help="The largest image that is read.")] = 100,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8471,
    host: Host = "127.0.0.1",
    url: Url = None,
) -> None:
    """This hospital's pages: approve jobs, what was sent, the data, and a model at the bedside. Prints the address once.

    Images that are dropped on the page are read in memory and stored nowhere. Not a medical device.
    """
    from common.web.access import Access
    from common.web.gate import Rules
    from common.web.serving import require_safe, serve

    require_safe(host, url)
    own = hospital_file(kit, file)

    from client.web.pages import DIAGNOSE, make_site

    most = max_upload_mb * 1_000_000
    asked = None
    if model is not None:
        from client.web.bedside import load_model

        asked = load_model(model, weights_dir or own.weights_dir, device, personal, batch_norm, refer_below, most)
    access = Access("consilium-hospital")
    site = make_site(own, Rules(access, url, large={DIAGNOSE: most}), asked)
    serve(site.asgi, access, host, port, url, _say)


def _say(address: str) -> None:
    console = Console()
    console.print(f"open {address}", markup=False, highlight=False, soft_wrap=True)
    console.print("whoever has this address is in; it holds until this command ends", style="dim", highlight=False)
