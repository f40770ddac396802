"""The page of the service in a real browser: Debian's chromium and chromium-driver, driven by selenium."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import OpenPage, chromium, needs_chromium
from mimicmotion.serve.tokens import Tokens
from service import STEPS, Service

pytestmark = [pytest.mark.slow, needs_chromium]
PATIENCE = 300  # seconds; only a broken page waits so long


class Page(OpenPage):
    """The open page, addressed by its elements."""

    def __init__(self, driver: Any, pictures: Path) -> None:
        super().__init__(driver, PATIENCE)
        self.pictures = pictures

    def until(self, what: str, code: str) -> Any:
        try:
            return super().until(what, code)
        except Exception as e:
            self.shot("failed")
            raise AssertionError(f"no {what}: {self.text('view')} {self.text('notice')}") from e

    def text(self, id: str) -> str:
        return self.js("return document.getElementById(arguments[0])?.innerText || ''", id)

    def open(self, url: str, size: tuple[int, int] | None = None) -> None:
        if size is None:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        else:
            metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(url)
        self.until("page", "!!document.querySelector('#make') && !!document.querySelector('#view .mm')")

    def click(self, id: str) -> None:
        element = self.driver.find_element("css selector", f"button#{id}, #{id} button")
        self.js("arguments[0].click()", element)

    def write(self, name: str, value: Any) -> None:
        field = self.driver.find_element("css selector", f"#set-{name} input, #set-{name} textarea")
        self.js("arguments[0].scrollIntoView({block: 'center'})", field)
        field.clear()
        field.send_keys(str(value) + "\t")

    def value(self, name: str) -> str:
        return self.js("return document.querySelector(`#set-${arguments[0]} :is(input, textarea)`).value", name)

    def example(self) -> None:
        self.click("example")
        self.until("example", "!!document.querySelector('#picture img') && !!document.querySelector('#video video')")

    def until_says(self, id: str, *texts: str) -> None:
        found = " || ".join(f"document.getElementById('{id}')?.innerText.includes({text!r})" for text in texts)
        self.until(f"{texts} in #{id}", found)

    def until_done(self) -> None:
        """Wait for the result, which must be a video that plays."""
        self.until_says("view", "Video: done", "Video: failed")
        videos = "[...document.querySelectorAll('#view video')]"
        self.until("players", f"{videos}.length === 2 && {videos}.every((v) => v.readyState >= 2 && v.videoWidth > 0)")

    def shot(self, name: str) -> None:
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    home = tmp_path_factory.mktemp("chromium")
    pictures = Path(os.environ.get("MIMICMOTION_TEST_PICTURES", home))
    with chromium(home, (1280, 900)) as driver:
        yield Page(driver, pictures)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service"), "--page") as running:
        yield running


def url(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}/"


@pytest.mark.parametrize("size", [None, (390, 844)], ids=["desktop", "phone"])
def test_a_whole_job_with_a_reload_in_the_middle(page: Page, service: Service, size: tuple[int, int] | None) -> None:
    name = "phone" if size else "desktop"
    page.open(url(service), size)
    page.example()
    page.write("duration", 0.2)
    page.write("seed", 7 if size else 8)
    page.write("num_inference_steps", 20)
    page.shot(f"{name}-form")
    page.click("make")
    page.until_says("view", "Loading", "Estimating poses", "Denoising", "Encoding")
    page.shot(f"{name}-running")
    job = service.client.list(limit=1)[0]
    assert not job.ended
    page.driver.refresh()
    page.until("page", "!!document.querySelector('#view .mm')")
    page.until_done()
    page.shot(f"{name}-done")
    state = service.client.state(job.id)
    given = {"duration": 0.2, "seed": 7 if size else 8, "num_inference_steps": 20}
    assert state.settings == given | {"preview": True}
    href = page.js("return document.querySelector('#view a.get').getAttribute('href')")
    assert service.request("GET", href)[1] == service.request("GET", f"/v1/jobs/{job.id}/result")[1]
    page.until("history", "document.querySelectorAll('#history input').length >= 1")
    assert page.value("seed") == "42"  # the form is new
    page.click("reuse")
    page.until("settings", f"document.querySelector('#set-seed :is(input, textarea)').value === '{given['seed']}'")
    assert (page.value("duration"), page.value("num_inference_steps")) == ("0.2", "20")
    page.until("files", "!!document.querySelector('#picture img') && !!document.querySelector('#video video')")
    assert page.js("return document.documentElement.scrollWidth <= window.innerWidth")
    asked = page.js("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert asked
    assert all(a.startswith((url(service), "data:", "blob:")) for a in asked)
    assert "Traceback" not in (service.folder / "log").read_text()


def test_plan_mistake_cancel_and_choice(page: Page, service: Service) -> None:
    page.open(url(service))
    page.click("make")
    page.until_says("notice", "no picture")
    page.example()
    page.write("duration", -1)
    page.click("make")
    page.until_says("notice", "duration=-1")
    assert "a number of at least 0.001 and at most 1000" in page.text("notice")
    page.shot("mistake")
    page.write("duration", 0.2)
    page.click("plan")
    page.until_says("view", "Plan: done")
    assert f"steps     {STEPS}, so {2 * STEPS} passes of the U-Net" in page.text("view")  # one segment, guided
    page.until("picture of the plan", "document.querySelector('#view img.plan').naturalWidth > 0")
    assert page.text("notice") == ""
    page.shot("plan")
    page.write("num_inference_steps", 1000)
    page.click("make")
    page.until_says("view", "Denoising")
    page.click("cancel")
    page.until_says("view", "Video: cancelled")
    page.until("no button", "!document.querySelector('#cancel')?.offsetParent")
    page.js("document.querySelectorAll('#history input')[1].click()")
    page.until_says("view", "Plan: done")


def test_a_pose_file_in_place_of_the_video_and_a_deleted_job(page: Page, service: Service) -> None:
    page.open(url(service))
    page.driver.find_element("css selector", "#picture input[type=file]").send_keys(str(service.picture))
    page.click("instead")
    page.until("the place of the file", "!!document.querySelector('#poses input[type=file]')")
    page.driver.find_element("css selector", "#poses input[type=file]").send_keys(str(service.video))
    page.until_says("poses", "poses")
    page.write("duration", 0.2)
    page.shot("pose-file")
    page.click("make")
    page.until_says("view", "Video: done", "Video: failed")
    page.until("the result", "document.querySelector('#view video')?.videoWidth > 0")
    job = service.client.list(limit=1)[0]
    page.driver.refresh()
    page.until("page", "!!document.querySelector('#view .mm')")
    page.click("reuse")
    page.until_says("poses", "poses", "video")
    page.until_says("view", "Video: done")
    from selenium.webdriver.support.expected_conditions import alert_is_present
    from selenium.webdriver.support.ui import WebDriverWait

    question = alert_is_present()
    for answer in ("dismiss", "accept"):  # a click is ignored while the one before is being answered
        wait = WebDriverWait(page.driver, PATIENCE, poll_frequency=1)
        getattr(wait.until(lambda driver: question(driver) or page.click("delete")), answer)()
        if answer == "dismiss":
            assert service.client.state(job.id).state == "done"
    page.until("another job", f"![...document.querySelectorAll('#history input')].some((e) => e.value === '{job.id}')")
    assert job.id not in {j.id for j in service.client.list()}


def test_a_restart_in_the_middle(page: Page, service: Service) -> None:
    page.open(url(service))
    page.example()
    page.write("duration", 0.2)
    page.write("num_inference_steps", 400)
    page.click("make")
    page.until_says("view", "Denoising")
    service.kill()
    time.sleep(3)  # the page gets no response
    service.start()
    page.until_done()  # without a reload
    page.driver.refresh()
    page.until_done()


def test_a_page_with_tokens(page: Page, tmp_path: Path) -> None:
    with Service(tmp_path, "--page") as service:
        secret = Tokens(service.data).add("anna", "jobs")
        other = Tokens(service.data).add("ben", "jobs")
        page.driver.get(url(service))
        page.until("sign in", "!!document.querySelector('input[type=password]')")
        page.shot("login")
        for path in ("/config", "/gradio_api/info", "/gradio_api/heartbeat/x", "/v1/jobs"):
            assert service.request("GET", path)[0] == 401
        assert service.request("POST", "/gradio_api/upload")[0] == 401
        page.driver.find_element("name", "token").send_keys("mm_wrong\n")
        page.until("refusal", "document.body.innerText.includes('not valid')")
        page.driver.find_element("name", "token").send_keys(secret + "\n")
        page.until("page", "!!document.querySelector('#view .mm')")
        assert page.js("return document.cookie") == ""  # scripts cannot read it
        page.example()
        page.write("duration", 0.1)
        page.click("make")
        page.until_done()
        cookie = {"Cookie": f"mimicmotion-token={other}"}
        (job,) = page.js("return [...document.querySelectorAll('#history input')].map((e) => e.value)")
        for name in ("result", "video", "picture"):
            assert service.request("GET", f"/v1/jobs/{job}/{name}", cookie)[0] == 404
        Tokens(service.data).revoke("anna")
        page.driver.refresh()
        page.until("sign in", "!!document.querySelector('input[type=password]')")


def test_chinese(page: Page, service: Service) -> None:
    page.driver.execute_cdp_cmd("Emulation.setLocaleOverride", {"locale": "zh-CN"})
    agent = {"userAgent": page.js("return navigator.userAgent"), "acceptLanguage": "zh-CN,zh"}
    page.driver.execute_cdp_cmd("Network.setUserAgentOverride", agent)
    page.open(url(service))
    page.until_says("make", "生成视频")
    page.until_says("view", "视频", "计划")
    page.shot("chinese")
