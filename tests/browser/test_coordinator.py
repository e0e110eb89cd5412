"""The coordinator's pages in a browser: the list, a run that goes on, a finished one, runs side by side."""

import threading
import time

import pytest
from playwright.sync_api import expect

from common.web.access import Access
from common.web.gate import Rules
from server.exchange import Exchange
from server.recorder import Recorder
from server.report import write_report
from server.rounds import Hooks, run_job
from server.storage import note_failure
from server.web.pages import make_site
from tests.server.conftest import SMALL, Deployed, Scripted, drawn, scripted_app

pytestmark = pytest.mark.browser
LONG = "a-hospital-with-a-name-that-is-as-long-as-a-name-may-be-and-then-some"


@pytest.fixture
def run_of(job, tmp_path):
    """Write a run; the Grid is given so that its hospitals can be held."""

    def make(name, seed=3, method=None, hold=None, **changes):
        made = job(**SMALL, method=method or {"name": "fedavg", "rounds": 6}, seed=seed, **changes)
        hospitals = {
            "alpha": Scripted(examples=drawn(1, [[40, 30], [16, 15], [17, 27]]), step=0.3),
            "beta": Scripted(examples=drawn(2, [[19, 36], [15, 25], [26, 18]]), step=-0.1),
            LONG: Scripted(examples=drawn(3, [[9, 16], [5, 5], [6, 8]]), step=0.2),
        }
        grid = Deployed(scripted_app(hospitals), {one: {} for one in hospitals})
        if hold:
            hold(grid)
        with Recorder(tmp_path / "runs" / name, made, "test") as recorder:
            hooks = Hooks(judged=[recorder.judged], checkpoint=[recorder.save], now=[recorder.now.tell])
            recorder.finish(run_job(made, Exchange(grid, poll_s=0.02, retry_s=0.05), hooks))
        write_report(recorder.folder)
        return recorder.folder

    return make


def test_runs_in_a_browser(page, served, picture, run_of, tmp_path):
    one = run_of("phantom-opacity-20260101-120000")
    run_of(
        "phantom-opacity-20260102-120000-with-a-very-long-name-that-somebody-gave-it-by-hand", seed=4, method="analytic"
    )
    failed = tmp_path / "runs" / "stopped"
    failed.mkdir()
    for name in ("job.json", "rounds.jsonl"):
        (failed / name).write_bytes((one / name).read_bytes())
    note_failure(failed, ValueError("2 hospitals are connected after 60 s, the job needs 3 (quorum.min_hospitals)"))
    address = served(make_site(tmp_path / "runs", Rules(Access("test"))))
    page.goto(address.split("?")[0])
    picture(page, "login")
    page.get_by_label("Token").fill("wrong")
    page.allowed.append("401")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    page.goto(address)
    expect(page).to_have_url(address.split("/login")[0] + "/")
    picture(page, "runs")
    expect(page.get_by_role("button", name="Side by side")).to_be_disabled()
    for box in page.get_by_role("checkbox").all()[:2]:
        box.check()
    page.get_by_role("button", name="Side by side").click()
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()
    picture(page, "compare")
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("link", name=one.name, exact=True).click()
    picture(page, "run-finished")
    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors").click()
    assert download.value.path().read_bytes() == (one / "model.safetensors").read_bytes()
    page.get_by_role("link", name="Open the report").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).maxWidth") != "none"
    page.go_back()
    page.goto(address.split("/login")[0] + "/runs/stopped")
    expect(page.get_by_role("alert")).to_contain_text("the job needs 3")
    picture(page, "run-failed")


def test_a_run_that_goes_on_is_followed(page, served, picture, run_of, tmp_path):
    held = {}

    def hold(grid):
        held["grid"] = grid
        grid.delays[(LONG, "fit")] = 3600.0

    run = threading.Thread(
        target=run_of, args=("going",), kwargs={"hold": hold, "quorum": {"min_hospitals": 3, "deadline_s": 300}}
    )
    run.start()
    folder = tmp_path / "runs" / "going"
    while not (folder / "now.json").exists():
        time.sleep(0.02)
    page.goto(served(make_site(tmp_path / "runs", Rules(Access("test")), look_s=0.1)))
    page.get_by_role("link", name="going").click()
    expect(page.get_by_role("heading", name="Now: fit, round 1")).to_be_visible()
    expect(page.get_by_role("row", name=LONG)).to_contain_text("asked")
    expect(page.locator(".clock")).to_contain_text("min")
    before = page.locator(".clock").text_content()
    expect(page.locator(".clock")).not_to_have_text(before)
    grid = held["grid"]

    def release():
        for key in list(grid._ready):
            grid._ready[key] = 0.0

    for number in (2, 3, 4):
        release()
        expect(page.get_by_role("heading", name=f"Now: fit, round {number}")).to_be_visible()
    picture(page, "run-going")
    assert page.locator("svg.plot circle").count() > 0
    grid.delays.clear()
    release()
    run.join()
    expect(page.get_by_role("link", name="Open the report")).to_be_visible()
    expect(page.locator("#news")).to_contain_text("finished")
    expect(page.get_by_role("heading", name="Now:")).to_have_count(0)


def test_the_theme_is_chosen_and_kept(page, served, tmp_path):
    (tmp_path / "runs").mkdir()
    page.emulate_media(color_scheme="light")
    page.goto(served(make_site(tmp_path / "runs", Rules(Access("test")))))
    button = page.get_by_role("button", name="Theme:")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    button.click()
    button.click()
    expect(button).to_have_text("Theme: dark")
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == dark
    button.click()
    assert page.evaluate(colour) == light
