"""The coordinator: Flower's ServerApp. It reads the job, runs the rounds, and leaves a run directory.

Run config (flwr run . --run-config "..."):

    job         path of the job file; relative paths start at the project (default: the demo job)
    out         the run directory, absolute; empty: runs/<job>-<time> in the folder of the coordinator's process
    engine      how the run calls itself in its summary; `in-process` and `ray` are simulations: nobody comes or goes
    resume      true: go on with the run in `out` from its last checkpoint
    roster      the file with the hospitals' node keys, for jobs with secure aggregation

In deployments the working directory of this process is chosen by Flower: give `out` as an absolute path.

The run directory ends with summary.json, a report and a model card, or with failure.json, which says why there are none.
"""

import logging
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import ConfigError
from common.job import Job, load_job
from common.secure_sum.roster import parse_roster
from server.exchange import Exchange
from server.model_card import CARD, write_card
from server.recorder import Recorder
from server.report import REPORT, write_report
from server.rounds import Hooks, Secrecy, run_job
from server.storage import note_failure

log = logging.getLogger(__name__)

SIMULATIONS = ("in-process", "ray")
RETRY_S = 10.0
"""Seconds until a hospital that could not describe itself, perhaps because nobody approved the job yet, is asked again."""

PROJECT = Path(__file__).resolve().parent.parent

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one job."""
    config = context.run_config
    job = load_job(PROJECT / str(config["job"]))
    folder = Path(str(config.get("out") or f"runs/{job.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    engine = str(config.get("engine", "flower"))
    exchange = Exchange(grid, retry_s=None if engine in SIMULATIONS else RETRY_S)
    with Recorder(folder, job, engine, bool(config.get("resume", False))) as recorder:
        try:
            hooks = Hooks(judged=[recorder.judged], checkpoint=[recorder.save])
            secrecy = _secrecy(job, str(config.get("roster", "")), folder)
            recorder.finish(run_job(job, exchange, hooks, recorder.checkpoint, secrecy))
            with recorder.writing(REPORT):
                report = write_report(folder)
            with recorder.writing(CARD):
                write_card(folder)
        except BaseException as error:
            note_failure(folder, error)
            raise
    log.info("the run is in %s, its report is %s", folder.resolve(), report.name)


def _secrecy(job: Job, roster: str, folder: Path) -> Secrecy | None:
    """What the run needs for secure aggregation, if its job asks for that."""
    if not job.privacy.secure_aggregation:
        return None
    if not roster:
        raise ConfigError(
            f"job '{job.name}' wants secure aggregation, and this engine has no roster of node keys: run it with "
            "`consilium simulate` or with `consilium coordinator run`"
        )
    try:
        return Secrecy(parse_roster(Path(roster).read_text(encoding="utf-8")), folder)
    except OSError as error:
        raise ConfigError(f"cannot read the roster {roster}: {error.strerror}") from error
