"""Who may use a page: a token made when it starts, sessions in memory, and a brake on guessing.

The token has 256 random bits. Whoever has it is in: `consilium ... web` prints it once, as an address. A session is another
random value, in a cookie that no script can read and no other site can send. A restart makes a new token and ends all sessions.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

SESSION_S = 12 * 3600.0
"""A session ends so long after its login."""

_MOST_SESSIONS = 50
_WINDOW_S = 60.0


class Access:
    """The token and the sessions of one page.

    name: begins the cookie's name. failures: so many wrong tokens within a minute stop every login for the rest of that minute.
    clock: seconds, only ever growing.
    """

    def __init__(
        self,
        name: str,
        token: str | None = None,
        failures: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.token = token or secrets.token_urlsafe(32)
        # Cookies of one machine are shared by all its ports: two pages must not end each other's sessions.
        self.cookie = f"{name}-{hashlib.sha256(self.token.encode()).hexdigest()[:12]}"
        self._most, self._clock = failures, clock
        self._failures: deque[float] = deque()
        self._sessions: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """Seconds for which nobody can log in; 0 normally."""
        with self._lock:
            return self._wait_s()

    def accepts(self, token: str) -> bool:
        """Whether this is the token, compared in constant time. A wrong one counts; while there is a wait none is right."""
        with self._lock:
            if self._wait_s() > 0:
                return False
            if hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode()):
                return True
            self._failures.append(self._clock())
            return False

    def begin(self) -> str:
        """A new session: what its cookie holds. The oldest of too many ends."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[_digest(session)] = (self._clock(), secrets.token_urlsafe(32))
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return session

    def form_token(self, session: str | None) -> str | None:
        """What every form of this session has to repeat; None if there is no such session."""
        if session is None:
            return None
        with self._lock:
            begun, form_token = self._sessions.get(_digest(session), (0.0, ""))
            if not form_token or self._clock() > begun + SESSION_S:
                self._sessions.pop(_digest(session), None)
                return None
            return form_token

    def end(self, session: str | None) -> None:
        """Log out."""
        if session is not None:
            with self._lock:
                self._sessions.pop(_digest(session), None)

    def _wait_s(self) -> float:
        now = self._clock()
        while self._failures and self._failures[0] <= now - _WINDOW_S:
            self._failures.popleft()
        return self._failures[0] + _WINDOW_S - now if len(self._failures) >= self._most else 0.0


def _digest(session: str) -> str:
    """Sessions are looked up by their digest: how long a look-up takes says nothing about them."""
    return hashlib.sha256(session.encode("utf-8", "replace")).hexdigest()
