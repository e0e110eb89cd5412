"""The coordinator: Flower's ServerApp. It reads the job, runs the rounds, and leaves a run directory.

Run config (flwr run . --run-config "..."):

    job         path of the job file; relative paths start at the project (default: the demo job)
    out         the run directory, absolute; empty: runs/<job>-<time> in the folder of the coordinator's process
    engine      how the run calls itself in its summary
    resume      true: go on with the run in `out` from its last checkpoint

In deployments the working directory of this process is chosen by Flower: give `out` as an absolute path.
"""

import logging
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.job import load_job, require_runnable
from server.exchange import Exchange
from server.recorder import Recorder
from server.report import write_report
from server.rounds import Hooks, run_job

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one job."""
    config = context.run_config
    job = load_job(PROJECT / str(config["job"]))
    require_runnable(job)
    folder = Path(str(config.get("out") or f"runs/{job.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    recorder = Recorder(folder, job, str(config.get("engine", "flower")), bool(config.get("resume", False)))
    hooks = Hooks(judged=[recorder.judged], checkpoint=[recorder.save])
    outcome = run_job(job, Exchange(grid), hooks, recorder.checkpoint)
    recorder.finish(outcome)
    report = write_report(folder)
    log.info("the run is in %s, its report is %s", folder.resolve(), report.name)
