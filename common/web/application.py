"""A FastAPI application with login, errors without details, templates and static files, to which pages are added."""

import hmac
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from common.web.access import SESSION_S
from common.web.gate import WORDS, Gate, Rules

log = logging.getLogger(__name__)

HERE = Path(__file__).parent


class Problem(BaseModel):
    """What is wrong, in neutral words: no path, no name, nothing of a patient."""

    model_config = ConfigDict(frozen=True)

    detail: str = Field(examples=["log in first"])


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for its OpenAPI description; those that any operation may give are always among them."""
    return {
        status: {"model": Problem, "description": WORDS[status]} for status in (400, 401, 403, 413, 421, 429, *statuses)
    }


class Site:
    """An application and its pages.

    name: as people read it. folder: `templates/` and `static/` of its own. places: address and words of what
    the top of every page leads to.
    """

    def __init__(
        self,
        name: str,
        description: str,
        folder: Path,
        rules: Rules,
        places: Sequence[tuple[str, str]],
        filters: Mapping[str, Any],
    ) -> None:
        self.name, self.rules, self.places = name, rules, places
        loader = jinja2.FileSystemLoader([folder / "templates", HERE / "templates"])
        self._environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters.update(filters)
        # The usual pages of the API's documentation load their scripts from elsewhere: only the description is served.
        security = [
            Depends(HTTPBearer(auto_error=False)),
            Depends(APIKeyCookie(name=rules.access.cookie, auto_error=False)),
        ]
        self.app = FastAPI(
            title=name, description=description, docs_url=None, redoc_url=None, dependencies=security, version="1"
        )
        self.app.mount("/static/own", StaticFiles(directory=folder / "static"))
        self.app.mount("/static", StaticFiles(directory=HERE / "static"))
        self._errors()
        self._login()
        self.asgi: ASGIApp = Gate(self.app, rules)
        """What is served: the application behind its gate."""

    def page(self, template: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
        """A page of a template. Every form on it repeats `form_token`."""
        text = self._environment.get_template(template).render(
            site=self.name,
            places=self.places,
            path=request.url.path,
            form_token=request.state.form_token or "",
            **values,
        )
        return HTMLResponse(text, status)

    def _errors(self) -> None:
        app = self.app

        def answer(request: Request, status: int, headers: Mapping[str, str] | None = None, said: str = "") -> Response:
            words = said or WORDS.get(status, WORDS[400])
            if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
                return JSONResponse({"detail": words}, status, headers)
            page = self.page("error.html", request, status, words=words)
            page.headers.update(headers or {})
            return page

        @app.exception_handler(HTTPException)
        async def http(request: Request, error: HTTPException) -> Response:
            said = error.detail if isinstance(error, Refused) else ""
            return answer(request, error.status_code, error.headers, said)

        @app.exception_handler(RequestValidationError)
        async def invalid(request: Request, _error: RequestValidationError) -> Response:
            return answer(request, 422)

        @app.exception_handler(Exception)
        async def failed(request: Request, error: Exception) -> Response:
            log.error("a page failed: %s", type(error).__name__)
            log.debug("it was this", exc_info=error)
            return answer(request, 500)

    def _login(self) -> None:
        app, access = self.app, self.rules.access

        @app.get("/login", include_in_schema=False)
        async def login(request: Request, token: str | None = None) -> Response:
            if token is not None:
                return self._enter(request, token)
            if request.state.form_token:
                return RedirectResponse("/", 303)
            return self.page("login.html", request, wrong=False, wait_s=round(access.wait_s()))

        @app.post("/login", include_in_schema=False)
        async def enter(request: Request) -> Response:
            form = await request.form()
            return self._enter(request, str(form.get("token", "")).strip())

        @app.post("/logout", include_in_schema=False)
        async def leave(request: Request, _own: Annotated[None, Depends(own_form)]) -> Response:
            access.end(request.state.session)
            answer = RedirectResponse("/login", 303)
            answer.delete_cookie(access.cookie, path="/")
            return answer

    def _enter(self, request: Request, token: str) -> Response:
        access = self.rules.access
        if not access.accepts(token):
            wait_s = access.wait_s()
            return self.page("login.html", request, 429 if wait_s else 401, wrong=True, wait_s=round(wait_s))
        # Not where somebody wanted to go: the token is not to stand in the address, and no address is taken from a request.
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            access.cookie,
            access.begin(),
            max_age=int(SESSION_S),
            path="/",
            secure=self.rules.secure,
            httponly=True,
            samesite="strict",
        )
        return answer


class Refused(HTTPException):
    """An HTTP error whose words were written here and may be shown."""


async def own_form(request: Request) -> None:
    """A dependency of whatever changes something: the form, or the header X-Form-Token, repeats the session's token.

    A program that has the login token as Bearer has no session, and no other site can make it ask.
    """
    expected: str | None = request.state.form_token
    if expected is None:
        return
    given = request.headers.get("x-form-token")
    if given is None and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        given = str((await request.form()).get("form_token", ""))
    if not hmac.compare_digest((given or "").encode(), expected.encode()):
        raise HTTPException(403)
