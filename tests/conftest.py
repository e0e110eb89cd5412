"""What tests of several packages need."""

import os
from pathlib import Path

import pytest

from common.telemetry import OFF

os.environ.update(OFF)
# Tests run side by side; on small matrices the threads of the linear algebra only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights: CONSILIUM_SHARED, or ../shared beside the project."""
    folder = Path(os.environ.get("CONSILIUM_SHARED") or PROJECT.parent / "shared")
    if not (folder / "data" / "chest_xray").is_dir():
        pytest.skip(f"no real images: {folder} is not there; set CONSILIUM_SHARED")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three small phantom hospitals of 40 images."""
    from client.phantom import make_phantoms

    return make_phantoms(tmp_path_factory.mktemp("phantoms"), hospitals=3, images=40, size_px=64)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache shared by all tests of a worker."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def job():
    """A quick job for the phantoms; call it with sections to change."""
    from common.job import parse_job

    def make(**changes):
        content = {
            "name": "test-job",
            "classes": ["normal", "opacity"],
            "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
            "image": {"size": 64},
            "method": {"name": "fedavg", "rounds": 4},
            "evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2},
            "quorum": {"min_hospitals": 2, "deadline_s": 60},
            "seed": 3,
        }
        return parse_job({**content, **changes})

    return make


@pytest.fixture
def visitor():
    """A browser-like client for a site: it sends cookies and its origin; `login` logs in, `token` is what a form repeats."""
    import asyncio

    import httpx

    class Stream(httpx.AsyncByteStream):
        def __init__(self, parts) -> None:
            self._parts = parts

        async def __aiter__(self):
            for part in self._parts:
                yield part

    class Direct(httpx.BaseTransport):
        """Asks an ASGI application in this process, part by part."""

        def __init__(self, app, raising) -> None:
            self._transport = httpx.ASGITransport(app, raise_app_exceptions=raising)

        def handle_request(self, request):
            async def ask():
                stream = Stream(request.stream)
                sent = httpx.Request(request.method, request.url, headers=request.headers.raw, stream=stream)
                answer = await self._transport.handle_async_request(sent)
                return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

            return asyncio.run(ask())

    class Visitor(httpx.Client):
        def __init__(self, site, logged_in=True, raising=True) -> None:
            super().__init__(transport=Direct(site.asgi, raising), base_url="http://127.0.0.1:8470")
            self.site = site
            self.headers["origin"] = "http://127.0.0.1:8470"
            if logged_in:
                self.login()

        def login(self, token=None):
            return self.post("/login", data={"token": token or self.site.rules.access.token})

        @property
        def token(self):
            return self.site.rules.access.form_token(self.cookies[self.site.rules.access.cookie])

    return Visitor
