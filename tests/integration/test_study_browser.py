"""The page of a study in a real browser: Debian's chromium and chromium-driver, driven by selenium."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import OpenPage, chromium, needs_chromium
from mimicmotion.study.analyse import analyse_votes
from mimicmotion.study.folder import Key, Study
from mimicmotion.study.votes import completion_code, latest, load_votes
from mimicmotion.video.picture import write_picture
from study_clips import BASELINES, OURS, ServedStudy, build, clip, result_folders, serving_study

pytestmark = [pytest.mark.slow, needs_chromium]
PATIENCE = 120  # seconds; only a broken page waits so long


class Page(OpenPage):
    """The open page, addressed in terms of the study."""

    def __init__(self, driver: Any, pictures: Path) -> None:
        super().__init__(driver, PATIENCE)
        self.pictures = pictures

    def open(self, url: str) -> None:
        self.driver.get("about:blank")  # else another name behind the # would load nothing
        self.driver.get(url)

    def enter(self, url: str, place: str = "1 / 5") -> None:
        """Open a rater's link and begin."""
        self.open(url)
        self.until("the start", f"!{ID}'start').hidden")
        self.click("begin")
        self.at(place)

    def shot(self, name: str) -> None:
        self.driver.save_screenshot(str(self.pictures / f"study-{name}.png"))

    def at(self, place: str) -> None:
        """Wait until this pair ("2 / 5") can be voted on."""
        self.until(
            f"pair {place}", f"$('place').textContent === '{place}' && !$('choose-a').disabled".replace("$(", ID)
        )

    def key(self, name: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(name).perform()

    def click(self, name: str) -> None:
        self.driver.find_element("id", name).click()

    def sides(self) -> tuple[str, str]:
        """Ids of the videos on both sides."""
        a, b = self.js("return ['a', 'b'].map((i) => document.querySelector(`#${i} video`).getAttribute('src'))")
        return Path(a).stem, Path(b).stem

    def wait_for_end(self) -> None:
        self.until("the end", f"!{ID}'end').hidden")


ID = "document.getElementById("
LEFT, RIGHT, DOWN, SPACE, BACKSPACE = "\ue012", "\ue014", "\ue015", " ", "\ue003"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    home = tmp_path_factory.mktemp("chromium")
    with chromium(home, (1200, 800)) as driver:
        yield Page(driver, Path(os.environ.get("MIMICMOTION_TEST_PICTURES", home)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Study, Key]]:
    root = tmp_path_factory.mktemp("results")
    config = result_folders(root)
    for m, method in enumerate((OURS, *BASELINES)):  # long enough to see them drift
        for sequence in ("walk", "turn"):
            clip(root / method / f"{sequence}.mp4", 40 * m, frames=40)
    for sequence in ("walk", "turn"):
        write_picture(root / "ref" / f"{sequence}.png", np.full((64, 48, 3), 200, np.uint8))
        clip(root / "drive" / f"{sequence}.mp4", 120, frames=40)
    count = iter(range(100))

    def make(**options: Any) -> tuple[Path, Study, Key]:
        """A study of 4 pairs, one of them twice."""
        number = next(count)
        own = dataclasses.replace(config, output=root / f"study{number}", seed=number, **options)
        return (own.output, *build(own))

    make.root = root  # type: ignore[attr-defined]
    return make


Served = tuple[ServedStudy, Path, Study, Key]


@pytest.fixture
def served(results: Callable[..., tuple[Path, Study, Key]]) -> Iterator[Served]:
    folder, study, key = results()
    with serving_study(folder) as server:
        yield server, folder, study, key


def test_voting_by_keyboard_survives_a_reload_and_lands_in_the_database(page: Page, served: Served) -> None:
    server, folder, study, key = served
    page.enter(server.link("anna"))
    pressed, seen = [LEFT, RIGHT, LEFT, LEFT, RIGHT], []
    for i, arrow in enumerate(pressed):
        page.at(f"{i + 1} / 5")
        seen.append(page.sides())
        page.key(LEFT if i == 1 else arrow)
        if i == 1:  # answered anew after going back
            page.at("3 / 5")
            page.driver.refresh()
            page.at("3 / 5")
            page.key(BACKSPACE)
            page.at("2 / 5")
            assert page.sides() == seen[1]  # the same order and sides after a reload
            page.key(RIGHT)
    page.wait_for_end()
    page.until("votes to be stored", f"{ID}'end').dataset.stored === 'true'")
    assert page.js(f"return {ID}'code').textContent") == completion_code(study, "anna")
    history = server.running.store.history()
    assert len(history) == 6
    votes = latest(history)
    by_place = {(v.pair, v.repeat): v for v in history}  # in the order of the first answers
    assert [(v.left, v.right) for v in by_place.values()] == seen
    choices = [s[0] if k == LEFT else s[1] for s, k in zip(seen, pressed, strict=True)]
    assert [v.choice for v in by_place.values()] == choices
    assert {v.rater for v in votes} == {"anna"}
    assert {v.pair for v in votes if v.repeat == 0} == {p.id for p in study.pairs}
    (again,) = [v for v in votes if v.repeat]
    (first,) = [v for v in votes if v.pair == again.pair and not v.repeat]
    assert (again.left, again.right) == (first.right, first.left)
    assert load_votes(folder, study) == votes
    assert analyse_votes(study, key, votes).consistency.n == 1
    page.driver.refresh()
    page.wait_for_end()
    assert not [e for e in page.driver.get_log("browser") if e["level"] == "SEVERE"]


def test_consent_instructions_practice_several_questions_and_ties(page: Page, results: Callable[..., Any]) -> None:
    texts = results.root / "texts"  # type: ignore[attr-defined]
    texts.mkdir()
    (texts / "consent.txt").write_text("We keep your answers, and nothing else of you.\nDo you agree?")
    (texts / "instructions.txt").write_text("Look at the hands.")
    options = {"consent": texts / "consent.txt", "instructions": texts / "instructions.txt", "repeat_share": 0.0}
    folder, study, _ = results(questions=["Better?", "Smoother?"], ties=True, practice=1, catch=1, **options)
    with serving_study(folder) as server:
        page.open(server.link("anna"))
        page.until("the consent", f"!{ID}'consent').hidden")
        page.shot("consent")
        assert "nothing else of you." in page.js(f"return {ID}'consent-text').innerText")
        assert server.running.store.number("anna") is None
        page.click("agree")
        page.shot("instructions")
        start = page.js(f"return {ID}'start').innerText")
        assert all(text in start for text in ("6 pairs", "Better?", "Smoother?", "Look at the hands.", "neither"))
        page.click("begin")
        page.at("Practice 1 / 1, question 1 / 2")
        assert page.js(f"return {ID}'heading').textContent") == "Better?"
        page.shot("practice")
        page.key(LEFT)
        page.at("Practice 1 / 1, question 2 / 2")
        page.key(DOWN)
        for i in range(5):
            page.at(f"{i + 1} / 5, question 1 / 2")
            page.click("choose-tie")
            page.at(f"{i + 1} / 5, question 2 / 2")
            assert page.js(f"return {ID}'heading').textContent") == "Smoother?"
            page.key(RIGHT)
        page.wait_for_end()
        page.until("the code", f"!{ID}'done').hidden")
        page.shot("end")
        history = server.running.store.history("anna")
        assert [v.question for v in history] == [0, 1] * 6
        assert [v.choice == "tie" for v in history] == [False, True] + [True, False] * 5
        assert [p.kind for v in history[::2] for p in study.pairs if p.id == v.pair].count("catch") == 1


def test_a_wrong_link_and_none(page: Page, served: Served) -> None:
    for link, text in (
        (served[0].link("anna") + "0", "a missing or invalid link"),
        (f"{served[0].url}/study", "the link that you"),
    ):
        page.open(link)
        page.js("localStorage.clear()")
        page.driver.refresh()
        page.until("the problem", f"!{ID}'problem').hidden")
        assert text in page.js(f"return {ID}'why').textContent")


def test_nothing_that_is_served_names_a_method(page: Page, served: Served) -> None:
    server, _, study, _ = served
    page.enter(server.link("anna"))
    asked = page.js("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert asked
    assert all(name.startswith((server.url, "data:")) for name in asked)
    assert not [name for name in asked if "anna" in name]
    answers = [server.ask("GET", name.removeprefix(f"{server.url}/study"))[2] for name in asked if "/begin" not in name]
    answers += [server.ask("GET", f"/videos/{v.file}")[2] for v in study.videos.values()]
    answers += [server.ask("POST", "/begin", rater="anna")[2]]
    for answer in answers:
        content = (answer if isinstance(answer, bytes) else json.dumps(answer).encode()).lower()
        for name in (OURS, *BASELINES, "walk", "turn.mp4", study.secret):
            assert name.lower().encode() not in content


def test_votes_are_sent_once_the_service_is_back(page: Page, results: Callable[..., Any]) -> None:
    folder, study, _ = results()
    unsent = f"localStorage.getItem(`{study.study}/unsent/${{location.hash.slice(1)}}`)"
    with serving_study(folder) as server:
        port = int(server.url.rpartition(":")[2])
        page.enter(server.link("anna"))
    page.key(LEFT)
    page.until("the vote to be kept", f"JSON.parse({unsent}).length === 1")
    with serving_study(folder, port=port) as server:
        page.until("the vote to be sent", f"!JSON.parse({unsent}).length")
        assert len(server.running.store.history()) == 1


MOVE = """
const a = document.querySelector('#a video'), b = document.querySelector('#b video');
a.addEventListener('seeking', () => { if (a.currentTime < 0.1) window.restarts++; });
window.move = () => { window.restarts = 0; b.currentTime = Math.min(a.currentTime + 2, b.duration); return false; };
window.move();
"""


def test_videos_run_together_again_after_one_was_moved(page: Page, results: Callable[..., Any]) -> None:
    folder, _, _ = results(reference=results.root / "ref", driving=results.root / "drive")  # type: ignore[attr-defined]
    with serving_study(folder) as server:
        page.enter(server.link("anna"))
        times = "[...document.querySelectorAll('video')].map((v) => v.currentTime)"
        assert len(page.js(f"return {times}")) == 3
        together = f"(() => {{ const t = {times}; return Math.max(...t) - Math.min(...t) < 0.15 && t[0] > 0.2; }})()"
        page.until("three videos at one time", together)
        # the common start of the next round would also bring them together, so that one does not count
        page.js(MOVE)
        page.until("three videos at one time again", f"window.restarts ? window.move() : {together}")
        page.js("document.querySelectorAll('video').forEach((v) => { v.currentTime = v.duration - 0.3; })")
        page.until("the beginning again", f"{times}.every((t) => t > 0 && t < 3)")
        assert page.js("return document.querySelector('#given img').naturalWidth") == 48


def test_space_pauses_and_never_votes(page: Page, served: Served) -> None:
    page.enter(served[0].link("anna"))
    page.click("choose-a")
    page.at("2 / 5")
    assert page.js("return document.activeElement.id") == "heading"
    page.key(SPACE)
    page.until("both to stand", "[...document.querySelectorAll('#stage video')].every((v) => v.paused)")
    assert page.js(f"return {ID}'pause').textContent") == "Play"
    page.key(SPACE)
    page.until("both to run", "[...document.querySelectorAll('#stage video')].every((v) => !v.paused)")
    page.at("2 / 5")


def test_reduced_motion_is_respected(page: Page, served: Served) -> None:
    media = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        page.open(served[0].link("anna"))
        page.until("the start", f"!{ID}'start').hidden")
        page.click("begin")
        page.until("a pair", "document.querySelector('#b video')?.readyState >= 2")
        # some browsers load a video only when it is played, for a moment
        page.until("stillness", "[...document.querySelectorAll('#stage video')].every((v) => v.paused)")
        assert page.js("return [...document.querySelectorAll('#stage video')].every((v) => v.currentTime < 0.1)")
        assert page.js(f"return {ID}'choose-a').disabled")
        page.key(SPACE)
        page.at("1 / 5")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("size", [(390, 844), (844, 390), (320, 568)])
def test_a_phone_shows_all_without_scrolling(page: Page, results: Callable[..., Any], size: tuple[int, int]) -> None:
    folder, _, _ = results(reference=results.root / "ref", driving=results.root / "drive")  # type: ignore[attr-defined]
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        with serving_study(folder) as server:
            page.enter(server.link("anna"))
            page.shot(f"{size[0]}x{size[1]}")
            boxes = page.js(
                "return ['box-a', 'box-b', 'choose-a', 'choose-b', 'back', 'pause'].map((i) => {"
                " const r = document.getElementById(i).getBoundingClientRect();"
                " return [r.left, r.top, r.right, r.bottom]; })"
            )
            for left, top, right, bottom in boxes:
                assert left >= 0
                assert top >= 0
                assert right <= size[0]
                assert bottom <= size[1]
                assert right - left >= 44
                assert bottom - top >= 44
            assert page.js("return document.documentElement.scrollWidth") <= size[0]
            page.click("choose-b")
            page.at("2 / 5")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_wide_videos_are_stacked_on_a_phone(page: Page, tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    for m, method in enumerate((OURS, *BASELINES)):
        clip(tmp_path / method / "walk.mp4", 40 * m, size=(48, 96))
    build(config)
    place = "return ['a', 'b'].map((i) => Math.round(document.getElementById(i).getBoundingClientRect()[arguments[0]]))"
    try:
        with serving_study(config.output) as server:
            for width, height, stacked in ((390, 844, True), (844, 390, False)):
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
                page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                page.enter(server.link(f"r{width}"), "1 / 3")
                page.shot(f"wide-{width}x{height}")
                left, top = page.js(place, "left"), page.js(place, "top")
                assert (left[0] == left[1], top[0] < top[1]) == (stacked, stacked)
                assert page.js("return document.querySelector('#a video').clientWidth") >= 320
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_video_that_cannot_be_loaded_is_reported_and_retried(page: Page, results: Callable[..., Any]) -> None:
    folder, _, _ = results()
    with serving_study(folder) as server:
        videos = folder / "videos"
        videos.rename(folder / "away")
        page.open(server.link("anna"))
        page.until("the start", f"!{ID}'start').hidden")
        page.click("begin")
        page.until("the trouble", f"{ID}'trouble').textContent.includes('could not be loaded')")
        page.key(LEFT)
        assert page.js(f"return {ID}'place').textContent") == "1 / 5"
        (folder / "away").rename(videos)
        page.driver.find_element("css selector", "#trouble button").click()
        page.at("1 / 5")
        assert server.running.store.history() == []


def test_a_second_person_at_the_same_browser_of_an_open_study(page: Page, results: Callable[..., Any]) -> None:
    folder, _, _ = results(repeat_share=0.0, open=True)
    with serving_study(folder) as server:
        page.open(f"{server.url}/study")
        for _ in range(2):
            page.until("the start", f"!{ID}'start').hidden")
            page.click("begin")
            for i in range(4):
                page.at(f"{i + 1} / 4")
                page.key(LEFT)
            page.wait_for_end()
            page.until("votes to be stored", f"{ID}'end').dataset.stored === 'true'")
            page.click("other")
        raters = [v.rater for v in server.running.store.history()]
        assert len(set(raters)) == 2
        assert raters == [raters[0]] * 4 + [raters[-1]] * 4


def test_everything_has_a_label(page: Page, served: Served) -> None:
    page.enter(served[0].link("anna"))
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n.get("ignored") and "role" in n
    ]
    roles = json.dumps(named)
    for role, name in (
        ("button", "A is better"),
        ("button", "B is better"),
        ("Video", "Video A"),
        ("Video", "Video B"),
    ):
        assert [role, name] in json.loads(roles), roles
    assert all(name for role, name in named if role in ("button", "Video", "heading", "progressIndicator", "image"))
