"""A hospital's pages: jobs, what was sent, the data, the bedside."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from client.approvals import Approvals
from client.hospital_file import HospitalFile
from client.ledger_export import to_csv, to_json
from client.ledger_page import to_html
from client.ledger_reading import Reading
from client.ledger_summary import summarise
from client.ledger_words import CODES, KINDS, size
from client.web.api import JobId, add_api
from client.web.asking import Asked, accepted
from client.web.looking import DataCheck, hospital, job_said, known_job, ledger, sent
from common.web.application import Site, own_form
from common.web.gate import Rules

DIAGNOSE = "/api/diagnose"
"""Where an image is sent: the one request that may be large."""

_PLACES = (("/", "Jobs"), ("/sent", "What was sent"), ("/data", "Data"), ("/bedside", "Bedside"))
_EXPORTS: Mapping[str, tuple[str, str]] = {
    "html": ("text/html", "attachment"),
    "csv": ("text/csv", "attachment"),
    "json": ("application/json", "attachment"),
}


def make_site(own: HospitalFile, rules: Rules, model: Asked | None) -> Site:
    """A hospital's pages. model: what answers at the bedside, if one was given."""
    site = Site(
        f"Consilium at {own.name}",
        "A hospital's own pages. Log in with the page's token as Bearer; a browser has a cookie.",
        Path(__file__).parent,
        rules,
        _PLACES,
        {"size": size, "clock": clock, "minute": minute, "percent": percent},
    )
    check = DataCheck(own)
    add_api(site, own, model, check)
    _pages(site, own, model, check)
    return site


def _pages(site: Site, own: HospitalFile, model: Asked | None, check: DataCheck) -> None:
    app = site.app

    @app.get("/", include_in_schema=False)
    def jobs(request: Request) -> HTMLResponse:
        return site.page("jobs.html", request, found=hospital(own))

    @app.get("/jobs/{job_id}", include_in_schema=False)
    def one_job(request: Request, job_id: JobId) -> HTMLResponse:
        known = known_job(own, job_id)
        if known is None:
            raise HTTPException(404)
        return site.page(
            "job.html", request, job=job_said(known, own), automatic=own.policy.approve == "auto", name=own.name
        )

    @app.post("/jobs/{job_id}/{decision}", include_in_schema=False)
    def decide(job_id: JobId, decision: str, _own: Annotated[None, Depends(own_form)]) -> Response:
        known = known_job(own, job_id)
        if known is None or decision not in ("approve", "revoke"):
            raise HTTPException(404)
        approvals = Approvals(own.state_folder)
        if decision == "approve":
            approvals.approve(known.job)
        else:
            approvals.revoke(known.job)
        return RedirectResponse("/", 303)

    @app.get("/sent", include_in_schema=False)
    def what_was_sent(request: Request) -> HTMLResponse:
        reading = ledger(own)
        found = summarise(reading.entries) if reading else None
        return site.page(
            "sent.html", request, sent=sent(reading) if reading else None, found=found, kinds=KINDS, codes=CODES
        )

    @app.get("/sent/ledger.{kind}", include_in_schema=False)
    def export(kind: str) -> Response:
        reading = ledger(own)
        if reading is None or kind not in _EXPORTS:
            raise HTTPException(404)
        media, how = _EXPORTS[kind]
        name = f'{how}; filename="ledger-{own.name}.{kind}"'
        return Response(_exported(kind, reading), media_type=media, headers={"content-disposition": name})

    @app.get("/data", include_in_schema=False)
    def data(request: Request) -> HTMLResponse:
        return site.page("data.html", request, check=check.said)

    @app.post("/data", include_in_schema=False)
    def look(_own: Annotated[None, Depends(own_form)]) -> Response:
        check.start()
        return RedirectResponse("/data", 303)

    @app.get("/bedside", include_in_schema=False)
    def bedside(request: Request) -> HTMLResponse:
        about = model.about() if model else None
        return site.page("bedside.html", request, model=about, accepts=accepted(), day=time.strftime("%Y-%m-%d"))


def _exported(kind: str, reading: Reading) -> str:
    return {"html": to_html, "csv": to_csv, "json": to_json}[kind](reading)


def clock(seconds: float) -> str:
    """Date and time here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def minute(text: str) -> str:
    """A time of the ledger, to the minute."""
    return f"{text[:10]} {text[11:16]}"


def percent(value: float | None) -> str:
    """A share in percent, with a dash where undefined."""
    return "–" if value is None else f"{100 * value:.1f} %"
