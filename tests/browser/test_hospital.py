"""A hospital's pages in a browser: approval, what was sent, the data, the bedside with its heatmap; by mouse and by keyboard."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from client.agent_status import AgentStatus, StatusFile
from client.approvals import Approvals
from client.hospital_file import Data, HospitalFile
from client.ledger import Ledger
from client.policy import Policy
from client.records import read_rows
from client.web.bedside import SHOWN_PX, load_model
from client.web.pages import DIAGNOSE, make_site
from common.packed import REFUSAL, Packed
from common.web.access import Access
from common.web.gate import Rules
from tests.client.web.drawn import drawn_model
from tests.client.web.stub import Stub

pytestmark = pytest.mark.browser


@pytest.fixture
def own(phantoms, tmp_path):
    return HospitalFile(
        name="st-marys",
        data=Data(folder=phantoms["hospital-a"]),
        cache=tmp_path / "cache",
        policy=Policy(approve="manual"),
    )


@pytest.fixture
def address(own, served):
    return served(make_site(own, Rules(Access("test"), large={DIAGNOSE: 5_000_000}), Stub(5_000_000)))


@pytest.fixture
def png():
    data = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(data, "PNG")
    return data.getvalue()


def brought(name: str, content: bytes) -> dict:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def test_a_job_is_approved_and_revoked(page, address, picture, own, job):
    page.goto(address)
    picture(page, "jobs-empty")
    long = "a-job-with-a-name-that-is-about-as-long-as-a-name-of-a-job-may-be"
    first = job(name="phantom-opacity")
    approvals = Approvals(own.state_folder)
    approvals.note(first)
    approvals.note(job(name=long[:63], method={"name": "fedprox", "rounds": 30}, tune="last-blocks"))
    StatusFile(
        own.state_folder, AgentStatus(1, "st-marys", "/s", "ready", 1.8e9, doing="fit", done=120, total=400, answered=7)
    )
    page.reload()
    picture(page, "jobs")
    card = page.get_by_role("article", name="phantom-opacity")
    expect(card).to_contain_text("never leaves")
    card.get_by_role("button", name="Approve phantom-opacity").click()
    expect(card).to_contain_text("approved")
    assert approvals.allows(first.job_id)
    card.get_by_role("link", name="Read it in full").click()
    expect(page.get_by_role("heading", name="In full")).to_be_visible()
    picture(page, "job")
    page.get_by_role("button", name="Revoke for st-marys").press("Enter")
    expect(page.get_by_role("button", name="Approve phantom-opacity")).to_be_visible()
    assert not approvals.allows(first.job_id)


def test_what_was_sent_and_the_data(page, address, picture, own, job):
    page.goto(address)
    page.get_by_role("link", name="What was sent").click()
    picture(page, "sent-empty")
    with Ledger(own.state_folder, "st-marys") as ledger:
        for number in range(1, 6):
            request = Packed({}, {"job": job(name="phantom-opacity").canonical_json(), "round": number})
            ledger.record("fit", request, Packed({"weight": np.zeros((2, 512), np.float32)}, {"examples": 3}))
        ledger.record("own", request, Packed({}, {REFUSAL: "against-policy"}), "not allowed")
    page.reload()
    expect(page.get_by_text("Verified.")).to_be_visible()
    picture(page, "sent")
    with page.expect_download() as download:
        page.get_by_role("link", name="Page for a data-protection officer").click()
    assert "What left st-marys" in download.value.path().read_text()
    page.get_by_role("link", name="Data", exact=True).click()
    picture(page, "data-empty")
    page.get_by_role("button", name="Look through the data").click()
    expect(page.get_by_text("No errors.")).to_be_visible()
    picture(page, "data")


def test_an_image_at_the_bedside(page, address, picture, png):
    page.goto(address)
    page.get_by_role("link", name="Bedside").click()
    picture(page, "bedside")
    file = page.locator("#file")
    file.set_input_files(brought("film-of-the-morning-round-with-a-rather-long-file-name-0001.png", png))
    verdict = page.get_by_role("heading", name="opacity: very likely")
    expect(verdict).to_be_focused()
    expect(page.get_by_role("row", name="opacity")).to_contain_text("97.0 %")
    heat = page.locator("#heat")
    expect(heat).to_be_visible()
    assert page.evaluate("document.getElementById('heat').naturalWidth") > 0
    slider = page.get_by_label("Heatmap")
    expect(heat).to_have_css("opacity", "0.5")
    slider.press("End")
    expect(heat).to_have_css("opacity", "1")
    slider.press("Home")
    expect(heat).to_have_css("opacity", "0")
    slider.fill("40")
    picture(page, "bedside-answer")
    page.emulate_media(media="print")
    expect(page.get_by_text("Physician:")).to_be_visible()
    expect(page.locator("#ask")).to_be_hidden()
    page.screenshot(path=str(picture.folder / "bedside-print.png"), full_page=True)
    page.emulate_media(media="screen")
    page.get_by_role("button", name="Forget this image").click()
    expect(page.locator("#result")).to_be_hidden()
    assert page.evaluate("document.getElementById('image').hasAttribute('src')") is False
    expect(file).to_be_focused()
    file.set_input_files(brought("unsure.png", png + b"unsure"))
    expect(page.get_by_role("heading", name="Refer to a radiologist")).to_be_visible()
    expect(page.get_by_text("below 80% a radiologist decides")).to_be_visible()
    expect(page.get_by_text("would say opacity: undecided")).to_be_visible()
    expect(page.get_by_text("the image is dark")).to_be_visible()
    picture(page, "bedside-refer")


def test_what_cannot_be_answered_is_said(page, address, picture, png):
    page.allowed.append("415|422")
    page.goto(address)
    page.get_by_role("link", name="Bedside").click()
    alert = page.locator("#problem")
    for content, said in (
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not a kind of file"),
        (png + b"damaged", "damaged"),
        (png + bytes(5_000_000), "too large"),
    ):
        page.locator("#file").set_input_files(brought("film.png", content))
        expect(alert).to_contain_text(said)
    picture(page, "bedside-problem")


def test_an_image_is_dropped_anywhere_on_the_page(page, address, png):
    page.goto(address)
    page.get_by_role("link", name="Bedside").click()
    drop = """(bytes) => {
      const given = new DataTransfer();
      given.items.add(new File([new Uint8Array(bytes)], "film.png"));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
    }"""
    expect(page.locator("#drop")).to_be_visible()
    page.evaluate(drop, list(png))
    expect(page.get_by_role("heading", name="opacity: very likely")).to_be_visible()


def test_everything_is_reached_with_the_keyboard(page, address):
    page.goto(address)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_role("link", name="Bedside").press("Enter")
    expect(page.locator("#file")).to_be_attached()
    page.wait_for_load_state()
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"file", "theme", "Log out", "Jobs", "Data"} <= reached
    for name in ("main", "header", "nav"):
        assert page.locator(name).count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate(
        "[...document.querySelectorAll('input')].every(one => one.labels?.length || one.type === 'hidden')"
    )


def test_a_model_answers_at_the_bedside(page, served, picture, own, phantoms, job, tmp_path):
    path = drawn_model(job(), tmp_path / "model.safetensors")
    model = load_model(path, None, "cpu", None, None, 0.0, 5_000_000)
    page.goto(served(make_site(own, Rules(Access("test"), large={DIAGNOSE: 5_000_000}), model)))
    page.get_by_role("link", name="Bedside").click()
    expect(page.get_by_text("random weights")).to_have_count(2)
    page.locator("#file").set_input_files(next(row.path for row in read_rows(phantoms["hospital-c"])))
    expect(page.locator("#verdict")).to_be_focused()
    assert page.evaluate("document.getElementById('image').naturalWidth") == SHOWN_PX
    assert page.evaluate("document.getElementById('heat').naturalWidth") == SHOWN_PX
    expect(page.locator("#heat-words")).to_contain_text("class activation map")
    picture(page, "bedside-model")


def test_logging_out_ends_it(page, address):
    page.goto(address)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
