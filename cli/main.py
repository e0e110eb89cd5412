"""The `consilium` command.

Heavy libraries are imported by the command that needs them, so that --help and --version are instant.
"""

import importlib.metadata
import logging
import os
import sys
import traceback
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.logging import RichHandler

from cli import advise, compare, coordinator, diagnose, export, hospital, images, importing, runs, tables
from common.errors import ConsiliumError
from common.telemetry import OFF

EXIT_CODES = """
Exit codes: 0 done; 1 findings of `check`, images that `import` refused, or an unexpected error; 2 a job file, hospital file or
option is wrong; 3 images, manifests or caches are not usable; 4 backbone weights cannot be had; 5 a model file or run directory
is damaged; 6 the federation could not go on (too few hospitals, no usable update); 7 the run directory cannot be written (disk
full); 8 a hospital's ledger was changed, or cannot be read or written; 130 interrupted.
"""

app = typer.Typer(
    name="consilium",
    help="Hospitals train one diagnostic image classifier together; no image leaves a hospital.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("simulate")(runs.simulate)
app.command("report")(runs.report)
app.command("compare", epilog=compare.ROWS_TEXT)(compare.compare)
app.command("check")(images.check)
app.command("import", epilog=importing.EPILOG)(importing.import_images)
app.command("advise")(advise.advise)
app.command("diagnose")(diagnose.diagnose)
app.command("export")(export.export)
app.command("backbones")(tables.backbones)
app.command("methods")(tables.methods)
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(hospital.app, name="hospital")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"consilium {importlib.metadata.version('consilium')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log everything (may name files and patients) and show tracebacks.")
    ] = False,
) -> None:
    handler = RichHandler(console=Console(stderr=True), show_path=debug, show_time=debug)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for ours in ("client", "server", "simulation", "deploy", "common", "cli"):
        logging.getLogger(ours).setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        logging.getLogger("server.app").setLevel(logging.WARNING)  # the command says itself where the run is


def main() -> None:
    """Run the command and turn errors into one clear paragraph and an exit code."""
    # Nothing that this command starts may phone home; someone who wants Flower's telemetry can set it to 1.
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except ConsiliumError as error:
        code = _explain(str(error), error.exit_code, debug)
    except Exception as error:
        hint = "" if debug else "\nconsilium --debug ... shows where; please report it"
        code = _explain(f"unexpected error ({type(error).__name__}): {error}{hint}", 1, debug)
    sys.exit(code or 0)


def _explain(message: str, code: int, debug: bool) -> int:
    """Print the error that is being handled; returns the exit code."""
    if debug:
        traceback.print_exc()
    Console(stderr=True).print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
