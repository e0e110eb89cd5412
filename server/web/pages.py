"""The coordinator's pages and its API: runs in a folder, as they go and side by side."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from fastapi.responses import Response as PlainResponse

from common.web.application import Site, documented
from common.web.gate import Rules
from server.failures import in_words, of_rounds
from server.numbers import number, size
from server.recorder import SUMMARY
from server.report import REPORT
from server.web.comparison import compare
from server.web.curves import Curves
from server.web.models import Run, RunList
from server.web.reading import FILES, folders, read, read_row, signature

FileName = Literal["report.html", "model.safetensors", "summary.json", "counts.json", "rounds.jsonl", "job.json"]
Name = str

MOST_COMPARED = 6
_LOOK_S = 0.5
_ALIVE_S = 15.0
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
"""For a report: it brings its own styles, needs nothing else, and must not run anything."""


def make_site(runs: Path, rules: Rules, look_s: float = _LOOK_S) -> Site:
    """The coordinator's pages over the run directories below `runs`. look_s: seconds between two looks at a run that goes on."""
    site = Site(
        "Consilium coordinator",
        "Runs of a federation. Log in with the page's token as Bearer; a browser has a cookie.",
        Path(__file__).parent,
        rules,
        [("/", "Runs")],
        {"number": number, "size": size, "ago": ago, "clock": clock},
    )
    _api(site, runs)
    _pages(site, runs, look_s)
    return site


def _api(site: Site, runs: Path) -> None:
    app = site.app

    @app.get("/api/runs", responses=documented(), operation_id="runs", tags=["runs"])
    def list_runs() -> RunList:
        """All runs, the latest first."""
        return RunList(runs=[read_row(one) for one in folders(runs).values()])

    @app.get("/api/runs/{name}", responses=documented(404, 422), operation_id="run", tags=["runs"])
    def one_run(name: Name) -> Run:
        """A run in full: its rounds, what goes on now, and what it came to."""
        return read(_folder(runs, name))

    @app.get(
        "/api/runs/{name}/files/{file}",
        responses={
            **documented(404, 422),
            200: {
                "description": "the file, as it is in the run directory",
                "content": {kind: {} for kind in sorted({*FILES.values()})},
            },
        },
        response_class=PlainResponse,
        operation_id="file",
        tags=["runs"],
    )
    def one_file(name: Name, file: FileName) -> FileResponse:
        """A file of a run: its report, its model, or what they were made from."""
        path = _folder(runs, name) / file
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type=FILES[file], filename=f"{_plain(name)}-{file}")


def _pages(site: Site, runs: Path, look_s: float) -> None:
    app = site.app

    @app.get("/", include_in_schema=False)
    def all_runs(request: Request) -> HTMLResponse:
        rows = [read_row(one) for one in folders(runs).values()]
        return site.page("runs.html", request, runs=rows, most=MOST_COMPARED, now=time.time())

    @app.get("/runs/{name}", include_in_schema=False)
    def run_page(request: Request, name: Name) -> HTMLResponse:
        return site.page("run.html", request, **_of_run(read(_folder(runs, name))))

    @app.get("/runs/{name}/now", include_in_schema=False)
    def run_now(request: Request, name: Name) -> HTMLResponse:
        return site.page("now.html", request, **_of_run(read(_folder(runs, name))))

    @app.get("/runs/{name}/report", include_in_schema=False)
    def report(name: Name) -> FileResponse:
        path = _folder(runs, name) / REPORT
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY})

    @app.get("/runs/{name}/events", include_in_schema=False)
    async def events(name: Name) -> StreamingResponse:
        folder = await asyncio.to_thread(_folder, runs, name)
        return StreamingResponse(changes(folder, look_s), media_type="text/event-stream")

    @app.get("/compare", include_in_schema=False)
    def side_by_side(request: Request, run: Annotated[list[str], Query()] = []) -> HTMLResponse:  # noqa: B006  FastAPI copies it
        chosen = [read(_folder(runs, name)) for name in dict.fromkeys(run[:MOST_COMPARED])]
        return site.page("compare.html", request, runs=chosen, found=compare(chosen), most=MOST_COMPARED)


async def changes(folder: Path, look_s: float) -> AsyncIterator[str]:
    """Server-sent events of one run: one at first and one for each change, until the run is over."""
    seen: tuple[float, ...] | None = None
    quiet_since = time.monotonic()
    while True:
        found = await asyncio.to_thread(signature, folder)
        if found != seen:
            seen, quiet_since = found, time.monotonic()
            run = await asyncio.to_thread(read, folder)
            over = run.state in ("failed", "damaged") or REPORT in run.files
            yield f"event: changed\ndata: {json.dumps({'state': run.state, 'rounds': run.rounds_done, 'over': over})}\n\n"
            if over:
                return
        elif time.monotonic() > quiet_since + _ALIVE_S:
            if (folder / SUMMARY).exists():
                return  # its report was never written
            quiet_since = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(look_s)


def _of_run(run: Run) -> dict[str, Any]:
    """What the page of a run shows besides."""
    rounds = run.rounds
    lost = [one.round for one in rounds if one.lost]
    validation = {
        words: {one.round: (one.validation or {}).get(key) for one in rounds}
        for key, words in (("auroc", "AUROC"), ("accuracy", "accuracy"))
    }
    losses = {
        "validation log loss": {one.round: (one.validation or {}).get("log_loss") for one in rounds},
        "training loss": {one.round: one.train_loss for one in rounds},
    }
    missing = of_rounds([one.model_dump() for one in rounds])
    return {
        "run": run,
        "curves": [Curves("Validation patients", validation, lost), Curves("Losses", losses, lost)],
        "missing": [f"{one['hospital']} {in_words(one)}" for one in missing],
    }


def _folder(runs: Path, name: str) -> Path:
    """The run directory of that name: one of those there are, so a name is no path."""
    found = folders(runs).get(name)
    if found is None:
        raise HTTPException(404)
    return found


def _plain(name: str) -> str:
    return "".join(one if one.isascii() and (one.isalnum() or one in "-_.") else "_" for one in name)


def ago(seconds: float, now: float | None = None) -> str:
    """How long ago, in words."""
    passed = max(0.0, (time.time() if now is None else now) - seconds)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if passed >= 2 * length:
            return f"{passed / length:.0f} {unit} ago"
    return f"{passed:.0f} seconds ago"


def clock(seconds: float) -> str:
    """Date and time here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
