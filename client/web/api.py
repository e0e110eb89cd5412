"""A hospital's pages for programs: JSON, with an OpenAPI description at /openapi.json."""

import asyncio
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request

from client.approvals import Approvals
from client.hospital_file import HospitalFile
from client.web.asking import Asked, UnknownKind
from client.web.looking import DataCheck, hospital, job_said, known_job, ledger, sent
from client.web.models import Answer, CheckSaid, Decided, Hospital, JobSaid, ModelSaid, Sent
from common.errors import DataError
from common.web.application import Refused, Site, documented, own_form
from common.web.gate import TooLarge

JobId = Annotated[str, Path(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64, description="64 hex digits")]
Own = Annotated[None, Depends(own_form)]

UPLOADS_AT_ONCE = 2
"""So many uploads are in memory at once; others wait."""

NO_MODEL = "no model was given to this page; start it with --model"
UNREADABLE = "the image cannot be read: it is damaged, incomplete, of an unknown kind, or has too many pixels"


def add_api(site: Site, own: HospitalFile, model: Asked | None, check: DataCheck) -> None:
    """Add the operations."""
    _of_hospital(site, own, check)
    _of_model(site, model)


def _of_hospital(site: Site, own: HospitalFile, check: DataCheck) -> None:
    app = site.app

    @app.get("/api/hospital", responses=documented(), operation_id="hospital", tags=["hospital"])
    def get_hospital() -> Hospital:
        """The hospital, what its agent is doing, and its jobs: those that wait for approval first."""
        return hospital(own)

    @app.get("/api/jobs/{job_id}", responses=documented(404, 422), operation_id="job", tags=["hospital"])
    def get_job(job_id: JobId) -> JobSaid:
        """A job in plain words and in full."""
        known = known_job(own, job_id)
        if known is None:
            raise HTTPException(404)
        return job_said(known, own)

    @app.post("/api/jobs/{job_id}/approve", responses=documented(404, 422), operation_id="approve", tags=["hospital"])
    def approve(job_id: JobId, _own: Own) -> Decided:
        """From now on the agent answers what this job asks, within the hospital's policy."""
        known = known_job(own, job_id)
        if known is None:
            raise HTTPException(404)
        Approvals(own.state_folder).approve(known.job)
        return Decided(job_id=job_id, approved=True)

    @app.post("/api/jobs/{job_id}/revoke", responses=documented(404, 422), operation_id="revoke", tags=["hospital"])
    def revoke(job_id: JobId, _own: Own) -> Decided:
        """From its next request on the agent declines the job. What has left has left."""
        known = known_job(own, job_id)
        if known is None:
            raise HTTPException(404)
        Approvals(own.state_folder).revoke(known.job)
        return Decided(job_id=job_id, approved=False)

    @app.get("/api/sent", responses=documented(404), operation_id="sent", tags=["hospital"])
    def get_sent() -> Sent:
        """What left this hospital, by its ledger."""
        reading = ledger(own)
        if reading is None:
            raise HTTPException(404)
        return sent(reading)

    @app.get("/api/check", responses=documented(), operation_id="check", tags=["hospital"])
    def get_check() -> CheckSaid:
        """How far the look through the data is, or what it found. It may name files: it is for the hospital's own people."""
        return check.said

    @app.post("/api/check", responses=documented(), operation_id="start-check", status_code=202, tags=["hospital"])
    def start_check(_own: Own) -> CheckSaid:
        """Look through the data, unless that is going on."""
        return check.start()


def _of_model(site: Site, model: Asked | None) -> None:
    app, uploads = site.app, asyncio.Semaphore(UPLOADS_AT_ONCE)

    @app.get("/api/model", responses=documented(404), operation_id="model", tags=["bedside"])
    def get_model() -> ModelSaid:
        """The model that answers, what it reached on test patients, and its limits."""
        if model is None:
            raise Refused(404, NO_MODEL)
        return model.about()

    @app.post(
        "/api/diagnose",
        responses=documented(404, 415, 422),
        operation_id="diagnose",
        tags=["bedside"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "the content of one image file; what it is decides its content, not its name or declared type",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def diagnose(request: Request, _own: Own) -> Answer:
        """What the model says of one image. The image is in memory only, and forgotten with the answer."""
        if model is None:
            raise Refused(404, NO_MODEL)
        most = model.about().most_bytes
        async with uploads:
            data = bytearray()
            async for part in request.stream():
                data += part
                if len(data) > most:
                    raise TooLarge
            try:
                return await asyncio.to_thread(model.answer, bytes(data))
            except UnknownKind as error:
                raise HTTPException(415) from error
            except DataError as error:
                raise Refused(422, UNREADABLE) from error
