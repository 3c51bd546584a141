"""A whole study in headless Chromium: by mouse, keys and touch, paused and taken up again, its file read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.waiting import PAGE
from training import study_perception

pytestmark = pytest.mark.browser

SHOWN = """() => {
    const data = JSON.parse(document.getElementById("data").textContent);
    const single = !document.getElementById("single").hidden;
    const of = element => element.src.split(",")[1];
    const image = document.querySelector(single ? "#single img" : "#given img");
    const set = data.sets.filter(set => [...document.querySelectorAll("#options button")].every(button =>
        set.options.some(({ id, picture }) => id === button.dataset.choice && picture === of(button.firstChild))));
    return {
        single,
        item: single ? data.singles.find(item => item.picture === of(image)).id : set[0].id,
        choices: [...document.querySelectorAll(single ? "#sides button" : "#options button")].map(
            button => button.dataset.choice),
    };
}"""
"""What a rater sees: which item it is, told by its pictures alone, and the choices from left to right."""
COUNT = "n => document.getElementById('count').textContent.startsWith(`${n} of`) && !busy"


class Sitting:
    """A rater before the page."""

    def __init__(self, browser, study, rater: str, context=None) -> None:
        self.context = context or browser.new_context(has_touch=True, accept_downloads=True)
        self.page, self.errors, self.asked = self.context.new_page(), [], []
        self.page.set_default_timeout(PAGE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{study.page.as_uri()}#rater={rater}")
        self.seen: dict[str, list[str]] = {}

    def go_on(self) -> None:
        self.page.get_by_role("button", name="Go on").and_(self.page.locator("#ready")).click()

    def look(self, number: int) -> dict:
        """Wait for item `number` and tell what is there."""
        self.page.wait_for_function(COUNT, arg=number)
        shown = self.page.evaluate(SHOWN)
        self.seen[shown["item"]] = shown["choices"]
        return shown

    def choose(self, shown: dict, choice: str, way: str) -> None:
        place = shown["choices"].index(choice)
        button = self.page.locator(f"#{'sides' if shown['single'] else 'options'} button").nth(place)
        if way == "key":
            self.page.keyboard.press(("ArrowLeft", "ArrowRight")[place] if shown["single"] else str(place + 1))
        elif way == "touch":
            button.tap()
        else:
            button.click()


def right(known: dict, item: str) -> str:
    """The truth about a single picture; of a set the option of "ours", or the one that is in order."""
    if item in known["singles"]:
        return {"real": "real"}.get(known["singles"][item]["kind"], "generated")
    if known["sets"][item]["check"]:
        return "o0"
    return next(option for option, method in known["sets"][item]["options"].items() if method == "ours")


def test_a_whole_study(browser, study, tmp_path):
    known, ways = study.known, ("mouse", "key", "touch")
    sitting = Sitting(browser, study, "7")
    page = sitting.page
    total = len(known["singles"]) + len(known["sets"])
    singles = len(known["singles"])
    page.locator("#rater").fill("")
    page.locator("#begin").click()
    assert "enter the number" in page.locator("#said").text_content()
    page.locator("#rater").fill("7")
    page.locator("#begin").click()
    assert "Part 1 of 2" in page.locator("#part h1").text_content()
    sitting.go_on()
    mistaken = next(item for item, each in known["singles"].items() if each["kind"] == "real")
    for number in range(1, 4):
        shown = sitting.look(number)
        assert shown["single"] and sorted(shown["choices"]) == ["generated", "real"]
        wrong = {"real": "generated", "generated": "real"}[right(known, shown["item"])]
        sitting.choose(shown, wrong if number == 1 else right(known, shown["item"]), ways[number % 3])
        if number == 1:  # a slip, taken back
            sitting.look(2)
            page.keyboard.press("Backspace")
            again = sitting.look(1)
            assert again == shown
            truth = right(known, shown["item"])
            sitting.choose(shown, "generated" if shown["item"] == mistaken else truth, "key")
    before = sitting.look(4)
    page.keyboard.press("p")
    assert page.locator("#paused").is_visible() and page.locator("#work").is_hidden()
    page.keyboard.press("p")
    assert sitting.look(4) == before
    page.locator("#pause").click()
    with page.expect_download() as partial:
        page.locator("#partial").click()
    part = json.loads(Path(partial.value.path()).read_text())
    assert not part["complete"] and len(part["answers"]) == 3

    page.close()  # and on the same device some day later
    later = Sitting(browser, study, "7", sitting.context)
    page = later.page
    assert page.locator("#begin").text_content() == f"Go on (3 of {total} answered)"
    page.locator("#begin").click()
    later.go_on()
    assert later.look(4) == before
    for number in range(4, total + 1):
        if number == singles + 1:
            assert "Part 2 of 2" in page.locator("#part h1").text_content()
            later.go_on()
        shown = later.look(number)
        assert shown["single"] == (number <= singles)
        truth = right(known, shown["item"])
        later.choose(shown, "generated" if shown["item"] == mistaken else truth, ways[number % 3])
    assert page.locator("#end").is_visible()
    with page.expect_download() as whole:
        page.locator("#save").click()
    assert whole.value.suggested_filename == f"answers-{known['study']}-7.json"
    (tmp_path / "answers").mkdir()
    whole.value.save_as(tmp_path / "answers" / whole.value.suggested_filename)
    assert json.loads(page.locator("#text").input_value())["answers"]
    assert not sitting.errors and not later.errors
    assert all(url.startswith(("file:", "data:", "blob:")) for url in [*sitting.asked, *later.asked])

    command = ["read", "--key", str(study.key), "--answers", str(tmp_path / "answers"), "--out", str(tmp_path / "out")]
    assert study_perception.main(command) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["raters"] == 1 and not found["incomplete"] and not found["failed_checks"]
    assert (found["r2g"]["hits"], found["r2g"]["of"]) == (1, 4) and found["g2r"]["share"] == 0
    assert {method: cell["hits"] for method, cell in found["jab"].items()} == {"ours": 3, "theirs": 0, "a third": 0}
    assert 0 < found["seconds"]["singles"][0] < 600

    other = Sitting(browser, study, "8")
    other.page.locator("#begin").click()
    other.go_on()
    for number in range(1, total + 1):
        if number == singles + 1:
            other.go_on()
        shown = other.look(number)
        other.page.keyboard.press("ArrowLeft" if shown["single"] else "1")
    order = [*sitting.seen, *(item for item in later.seen if item not in sitting.seen)]
    assert list(other.seen) != order and set(other.seen) == set(order)
    placed = sitting.seen | later.seen
    assert any(other.seen[item] != placed[item] for item in known["sets"])
    other.context.close()
    sitting.context.close()


def test_a_tab_that_is_hidden_while_its_pictures_are_decoded_is_paused(browser, study):
    sitting = Sitting(browser, study, "9")
    page = sitting.page
    page.locator("#begin").click()
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")
    sitting.go_on()
    page.locator("#paused").wait_for()
    page.wait_for_timeout(300)
    page.locator("#resume").click()
    sitting.look(1)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("state.answers[0].milliseconds") < 300
    sitting.context.close()


def test_a_browser_that_keeps_nothing_says_so(browser, study):
    """As private windows may: the rater is told before the first answer, while pausing, and when closing the page."""
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('', 'SecurityError') } })"
    )
    sitting = Sitting(browser, study, "9", context)
    page, asked = sitting.page, []
    page.locator("#begin").click()
    assert "keeps no answers" in page.locator("#explained").text_content()
    sitting.go_on()
    sitting.look(1)
    page.keyboard.press("ArrowLeft")
    sitting.look(2)
    page.keyboard.press("p")
    assert "keeps nothing" in page.locator("#lasting").text_content()
    page.on("dialog", lambda dialog: asked.append(dialog.type) or dialog.dismiss())
    page.close(run_before_unload=True)
    page.wait_for_timeout(200)
    assert asked == ["beforeunload"] and not page.is_closed() and not sitting.errors
    with page.expect_download():
        page.locator("#partial").click()
    page.close(run_before_unload=True)
    if not page.is_closed():
        page.wait_for_event("close")
    assert asked == ["beforeunload"]
    context.close()


def test_on_a_phone_each_set_begins_at_its_top(browser, study):
    context = browser.new_context(viewport={"width": 360, "height": 480}, has_touch=True, is_mobile=True)
    sitting = Sitting(browser, study, "100%", context)
    page = sitting.page
    assert page.locator("#rater").input_value() == "100%", "an address that is not encoded is taken as it is"
    page.locator("#begin").tap()
    sitting.go_on()
    singles = len(study.known["singles"])
    for number in range(1, singles + 1):
        sitting.look(number)
        page.locator("#sides button").first.tap()
    sitting.go_on()
    for number in (singles + 1, singles + 2):
        sitting.look(number)
        assert page.evaluate("scrollY") == 0 and page.locator("#given img").first.is_visible()
        tops = page.evaluate("[...document.querySelectorAll('#options button')].map(b => b.offsetTop)")
        assert tops[0] == tops[1] < tops[2], "two pictures side by side"
        page.evaluate("document.body.style.minHeight = '3000px'; scrollTo(0, 1500)")
        page.locator("#options button").last.tap()
    context.close()
