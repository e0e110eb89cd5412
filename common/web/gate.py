"""What every request passes before anything looks at it: host, size, login, and whether it comes from our own page.

A plain ASGI middleware, so that a request that is refused costs nothing and its body is never read.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.web.access import Access

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names under which a page is asked for on its own machine. Another site's name that leads here (DNS rebinding) is none."""

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with that, browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Of every answer. Nothing inline and nothing of another origin is loaded."""

SMALL_BODY = 64 << 10
"""Bytes of a request's body, but for uploads."""

WORDS: Mapping[int, str] = {
    400: "the request cannot be read",
    401: "log in first",
    403: "this request did not come from a page of this site",
    404: "there is nothing here",
    405: "that cannot be done here",
    413: "too large",
    415: "this is not a kind of file that is read here",
    421: "this name does not lead here",
    422: "the request is not what is expected here",
    429: "too many wrong tokens; wait a minute",
    500: "something failed here; the log of this page says what",
}
"""What is said of an error, and no more."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class TooLarge(HTTPException):
    """A body is larger than allowed: the application answers 413 in place of reading on."""

    def __init__(self) -> None:
        super().__init__(413)


@dataclass(frozen=True)
class Rules:
    """url: where people find the page, if there is a proxy before it. open: paths without a login. large: path -> most bytes."""

    access: Access
    url: str | None = None
    open: Collection[str] = ("/login",)
    large: Mapping[str, int] = field(default_factory=dict)

    @property
    def secure(self) -> bool:
        """Whether cookies are for HTTPS only."""
        return bool(self.url and self.url.startswith("https:"))

    def hosts(self) -> set[str]:
        """Names by which the page may be asked for."""
        return {*LOOPBACK, *([urlsplit(self.url).hostname or ""] if self.url else [])}


class Gate:
    """Wraps an application. What it lets through has `scope["state"]["form_token"]`, None for a program with the token."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules, self._hosts = app, rules, rules.hosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with_headers = _adding(send)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _refuse(refused, scope, headers, self._rules.access, with_headers)
            return
        most = self._rules.large.get(scope["path"], SMALL_BODY)
        if _declared(headers) > most:
            await _refuse(413, scope, headers, self._rules.access, with_headers)
            return
        await self._app(scope, _counting(receive, most), with_headers)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> int | None:
        """The status of what is refused at once; else None, and the scope says who asks."""
        state = scope.setdefault("state", {})
        state["form_token"], state["session"] = None, None
        if host_of(headers) not in self._hosts:
            return 421
        access, path = self._rules.access, scope["path"]
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_open = path in self._rules.open or path.startswith("/static/")
        if scheme.lower() == "bearer":
            if not access.accepts(given.strip()):
                return 429 if access.wait_s() > 0 else 401
            return None
        session = _cookie(headers, access.cookie)
        state["form_token"], state["session"] = access.form_token(session), session
        if state["form_token"] is None and not is_open:
            return 401
        if scope["method"] not in _SAFE and not self._own_page(headers):
            return 403
        return None

    def _own_page(self, headers: Mapping[str, str]) -> bool:
        """Whether a browser says that the request comes from this page. One that says nothing is not believed."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") == "same-origin"
        parts = urlsplit(origin)
        own = urlsplit(self._rules.url).netloc if self._rules.url else ""
        return parts.scheme in ("http", "https") and parts.netloc in {headers.get("host", ""), own} - {""}


def host_of(headers: Mapping[str, str]) -> str:
    """The name in the Host header, without the port; "" if there is none."""
    host = headers.get("host", "").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _cookie(headers: Mapping[str, str], name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found else None


def _declared(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def _counting(receive: Receive, most: int) -> Receive:
    """`receive`, but for bodies of more than `most` bytes."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            raise TooLarge
        return message

    return counted


def _adding(send: Send) -> Send:
    """`send`, with `HEADERS` where the application gave none of that name."""

    async def added(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in present]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return added


async def _refuse(status: int, scope: Scope, headers: Mapping[str, str], access: Access, send: Send) -> None:
    """A neutral answer: JSON, or for a person who is not logged in the way to the login."""
    page = "text/html" in headers.get("accept", "") and not scope["path"].startswith("/api/")
    sent = [(b"connection", b"close")] if status == 413 else []
    if status == 401 and page and scope["method"] in _SAFE:
        sent, body = [(b"location", b"/login"), (b"content-type", b"text/plain; charset=utf-8")], b""
        status = 303
    elif page:
        sent, body = [*sent, (b"content-type", b"text/plain; charset=utf-8")], WORDS[status].encode()
    else:
        sent, body = [*sent, (b"content-type", b"application/json")], json.dumps({"detail": WORDS[status]}).encode()
    if status == 429:
        sent.append((b"retry-after", str(max(1, round(access.wait_s()))).encode()))
    if status == 401:
        sent.append((b"www-authenticate", b"Bearer"))
    sent.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
