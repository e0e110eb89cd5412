"""What every request passes: host, login, origin, size; and what every answer carries."""

from typing import Annotated

import pytest
from fastapi import Depends, Request

from common.errors import ConfigError
from common.web.access import Access
from common.web.application import HERE, Site, own_form
from common.web.gate import HEADERS, SMALL_BODY, WORDS, Rules
from common.web.serving import require_safe

SECRET = "/home/st-marys/patient-4711.png"


@pytest.fixture
def site():
    made = Site(
        "Page", "For tests.", HERE, Rules(Access("page", failures=3), large={"/api/large": 1000}), [("/", "First")], {}
    )

    @made.app.get("/")
    def first(request: Request):
        return made.page("error.html", request, words="a <b>word</b>")

    @made.app.get("/api/fails")
    def fails():
        raise ValueError(SECRET)

    @made.app.post("/api/small")
    @made.app.post("/api/large")
    async def body(request: Request, _own: Annotated[None, Depends(own_form)]):
        if request.headers.get("content-type") == "application/x-www-form-urlencoded":
            return {"fields": len(await request.form())}
        return {"bytes": len(await request.body())}

    @made.app.get("/api/number/{number}")
    def number(number: int):
        return number

    return made


def test_without_a_login_a_person_is_led_there_and_a_program_is_told(site, visitor):
    stranger = visitor(site, logged_in=False)
    page = stranger.get("/", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    for path in ("/", "/api/number/1", "/openapi.json", "/nothing"):
        answer = stranger.get(path)
        assert (answer.status_code, answer.json()) == (401, {"detail": WORDS[401]})
    assert stranger.get("/static/site.css").status_code == 200
    assert stranger.get("/login").status_code == 200


def test_the_address_with_the_token_logs_in_and_leaves_no_token_in_the_address(site, visitor):
    person = visitor(site, logged_in=False)
    answer = person.get(f"/login?token={site.rules.access.token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert site.rules.access.token not in answer.headers["set-cookie"]
    assert person.get("/").status_code == 200


def test_behind_a_proxy_with_tls_the_cookie_is_for_https_only(visitor):
    rules = Rules(Access("page"), url="https://web.example.org")
    person = visitor(Site("Page", "", HERE, rules, [], {}), logged_in=False)
    there = {"host": "web.example.org", "origin": "https://web.example.org"}
    answer = person.post("/login", data={"token": rules.access.token}, headers=there)
    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()
    assert person.get("/login", headers={"host": "elsewhere.example.org"}).status_code == 421


def test_a_wrong_token_is_refused_and_guessing_is_stopped(site, visitor):
    guesser = visitor(site, logged_in=False)
    answers = [guesser.login("wrong") for _ in range(3)]
    assert [one.status_code for one in answers] == [401, 401, 429]
    assert not any("set-cookie" in one.headers for one in answers)
    assert guesser.login().status_code == 429
    assert (
        guesser.get("/api/number/1", headers={"authorization": f"Bearer {site.rules.access.token}"}).status_code == 429
    )


def test_a_session_goes_on_while_somebody_guesses(site, visitor):
    person, guesser = visitor(site), visitor(site, logged_in=False)
    for _ in range(5):
        guesser.login("wrong")
    assert person.get("/").status_code == 200


def test_a_program_has_the_token_as_bearer(site, visitor):
    program = visitor(site, logged_in=False)
    right = {"authorization": f"Bearer {site.rules.access.token}"}
    del program.headers["origin"]
    assert program.get("/api/number/7", headers=right).json() == 7
    assert program.post("/api/small", content=b"123", headers=right).json() == {"bytes": 3}
    assert program.get("/api/number/7", headers={"authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.org", "localhost.evil.org:8470", "", "10.0.0.1"])
def test_another_name_that_leads_here_is_refused(site, visitor, host):
    person = visitor(site)
    assert person.get("/", headers={"host": host}).status_code == 421
    assert person.get("/static/site.css", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:8470", "LOCALHOST"])
def test_the_machine_s_own_names_are_not(site, visitor, host):
    assert visitor(site).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example.org", "null", "http://127.0.0.1:9", "file://", "http://127.0.0.1:8470.evil.org"]
)
def test_another_site_s_page_changes_nothing(site, visitor, origin):
    person = visitor(site)
    sent = {"origin": origin, "x-form-token": person.token}
    assert person.post("/api/small", headers=sent).status_code == 403
    assert person.post("/login", data={"token": site.rules.access.token}, headers={"origin": origin}).status_code == 403


def test_a_form_repeats_the_session_s_token(site, visitor):
    person, other = visitor(site), visitor(site)
    assert person.post("/api/small").status_code == 403
    assert person.post("/api/small", headers={"x-form-token": other.token}).status_code == 403
    assert person.post("/api/small", data={"form_token": "é"}).status_code == 403
    assert person.post("/api/small", headers={"x-form-token": person.token}).status_code == 200
    assert person.post("/api/small", data={"form_token": person.token}).status_code == 200


def test_logging_out_ends_the_session(site, visitor):
    person = visitor(site)
    before = dict(person.cookies)
    assert person.post("/logout").status_code == 403
    assert person.post("/logout", data={"form_token": person.token}).headers["location"] == "/login"
    person.cookies.update(before)
    assert person.get("/").status_code == 401


def test_every_answer_has_the_headers(site, visitor):
    person = visitor(site)
    answers = [
        person.get("/"),
        person.get("/static/site.css"),
        person.get("/api/number/x"),
        person.get("/nothing"),
        person.get("/", headers={"host": "evil"}),
        visitor(site, logged_in=False).get("/"),
        visitor(site, raising=False).get("/api/fails"),
    ]
    assert [one.status_code for one in answers] == [200, 200, 422, 404, 421, 401, 500]
    for one in answers:
        assert HEADERS.items() <= dict(one.headers).items(), one.status_code
        assert "server" not in one.headers
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_errors_say_nothing_of_what_was_inside(site, visitor, caplog):
    person = visitor(site, raising=False)
    for accept in ("application/json", "text/html"):
        answer = person.get("/api/fails", headers={"accept": accept})
        assert answer.json() == {"detail": WORDS[500]}
    assert SECRET not in caplog.text
    assert person.get("/api/number/<script>").json() == {"detail": WORDS[422]}
    assert "<b>word" not in person.get("/").text
    page = person.get("/nothing/<script>", headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "nothing/" not in page.text


def test_a_body_is_refused_by_its_declared_size_before_it_is_read(site, visitor):
    person = visitor(site)
    sent = {"x-form-token": person.token}
    assert person.post("/api/small", content=b"x" * SMALL_BODY, headers=sent).status_code == 200
    assert person.post("/api/small", content=b"x" * (SMALL_BODY + 1), headers=sent).status_code == 413
    assert person.post("/api/large", content=b"x" * 1000, headers=sent).status_code == 200
    assert person.post("/api/large", content=b"x" * 1001, headers=sent).json() == {"detail": WORDS[413]}
    assert person.post("/login", content=b"x" * (SMALL_BODY + 1)).status_code == 413


def test_a_body_without_a_declared_size_is_refused_while_it_comes(site, visitor):
    person = visitor(site)

    def parts():
        for _ in range(30):
            yield b"x" * 100

    answer = person.post("/api/large", content=parts(), headers={"x-form-token": person.token})
    assert (answer.status_code, answer.json()) == (413, {"detail": WORDS[413]})


def test_the_cookie_may_be_nonsense(site, visitor):
    stranger = visitor(site, logged_in=False)
    for cookie in (
        "a=b; \x01",
        f"{site.rules.access.cookie}=",
        f"{site.rules.access.cookie}={site.rules.access.token}",
    ):
        assert stranger.get("/", headers={"cookie": cookie}).status_code == 401


@pytest.mark.parametrize(
    ("host", "url", "said"),
    [
        ("0.0.0.0", None, "--host"),
        ("10.1.2.3", "http://web.example.org", "--host"),
        ("web.example.org", None, "IP address"),
        ("127.0.0.1", "ftp://web.example.org", "--url"),
        ("127.0.0.1", "https://web.example.org/consilium", "without a path"),
    ],
)
def test_a_network_is_not_served_without_tls(host, url, said):
    with pytest.raises(ConfigError, match=said):
        require_safe(host, url)


def test_loopback_and_what_is_behind_a_proxy_are_served():
    for host, url in (("127.0.0.1", None), ("::1", None), ("localhost", None), ("0.0.0.0", "https://web.example.org")):
        require_safe(host, url)
