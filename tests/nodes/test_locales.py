"""Names, tooltips and the editor's words in every language: none missing, none left over, and the page shows them."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest

from tests.fixtures.waiting import CEILING, PAGE
from tests.workflows.pose_page import READY
from workflows.comfy_server import ROOT

LANGUAGES = ("en", "zh", "ja", "de")
SCRIPTS = sorted((ROOT / "nodes" / "web" / "js").glob("pose_*.js"))
NO_WORD = re.compile(r"[^A-Za-z]*")
"""Labels of buttons that are a sign."""


def read(language, file):
    return json.loads((ROOT / "locales" / language / file).read_text("utf-8"))


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture(scope="module")
def schemas(pack):
    """nodeDefs.json as the schemas have it."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {
                item.id: {"name": item.display_name or item.id, "tooltip": item.tooltip} for item in schema.inputs
            },
            "outputs": {
                str(number): {"name": item.display_name or item.id, "tooltip": item.tooltip}
                for number, item in enumerate(schema.outputs)
            },
        }
        for schema in (node.define_schema() for node in pack.nodes.NODES)
    }


def words():
    """What the editor says in English: labels, helps, gestures, and messages without a number or name in them."""
    found = set()
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        found |= set(re.findall(r'(?:label|help): "([^"]+)"', text)) | set(re.findall(r'(?:tell|say)\("([^"]+)"', text))
        if "GESTURES = [" in text:
            rows = text.split("GESTURES = [")[1].split("]\n")[0].split("].map")[0]
            found |= {word for row in re.findall(r'\["([^"]+)", "([^"]+)"\]', rows) for word in row}
    return {word for word in found if not NO_WORD.fullmatch(word)}


def shape(value):
    return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else None


def texts(value):
    return [text for each in value.values() for text in texts(each)] if isinstance(value, dict) else [value]


def test_languages_are_these():
    assert {path.name for path in (ROOT / "locales").iterdir()} == set(LANGUAGES)


def test_english_is_what_the_schemas_say(schemas):
    assert read("en", "nodeDefs.json") == schemas


def test_every_key_and_no_other(language, schemas):
    assert shape(read(language, "nodeDefs.json")) == shape(schemas)
    assert set(read(language, "main.json")["RePoseDM"]["editor"]) == words()


def test_texts_are_shown_as_they_are(language):
    """To the page braces, @ and | are more than characters."""
    for file in ("nodeDefs.json", "main.json"):
        found = texts(read(language, file))
        assert all(text and not re.search(r"[{}@|]", text) for text in found)


@pytest.mark.parametrize("other", LANGUAGES[1:])
def test_choices_inputs_and_files_keep_their_names(other, schemas):
    """What a tooltip quotes of the graph is the same in every language."""
    quoted = re.compile(r"\b[a-z]+_[a-z_]+\b|models/\w+|\bmini-256\b|%\w+%")
    ours, theirs = read(other, "nodeDefs.json"), read("en", "nodeDefs.json")
    for node in schemas:
        for part in ("inputs", "outputs"):
            for name, item in theirs[node][part].items():
                told = set(quoted.findall(ours[node][part][name]["tooltip"]))
                assert told == set(quoted.findall(item["tooltip"])), f"{other}: {node}.{name}"


def test_comfyui_serves_them(comfy):
    with urllib.request.urlopen(f"{comfy.url}/api/i18n", timeout=CEILING) as answer:
        served = json.load(answer)
    for language in LANGUAGES:
        assert served[language]["nodeDefs"] == read(language, "nodeDefs.json")


@pytest.mark.browser
@pytest.mark.parametrize("language", ["zh", "ja"])
def test_page_speaks_the_user_s_language(browser, comfy, language):
    defs, editor = read(language, "nodeDefs.json"), read(language, "main.json")["RePoseDM"]["editor"]
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PAGE)

    def speak(tongue):
        page.request.post(f"{comfy.url}/api/settings/Comfy.Locale", data=json.dumps(tongue), timeout=PAGE)

    page.request.post(f"{comfy.url}/api/settings/Comfy.TutorialCompleted", data="true", timeout=PAGE)
    speak(language)
    try:
        page.goto(comfy.url)
        page.wait_for_function(READY)
        title, label = page.evaluate("""() => {
            window.app.graph.clear();
            const node = window.app.graph.add(LiteGraph.createNode("RePoseDMPoseEditor"));
            node.pos = [400, 60];
            window.app.canvas.ds.reset();
            return [node.title, node.widgets.find(({ name }) => name === "width").label];
        }""")
        known = defs["RePoseDMPoseEditor"]
        assert title == known["display_name"] and label == known["inputs"]["width"]["name"]
        page.get_by_test_id("pose-editor-mirror").get_by_text(editor["Mirror"]).wait_for()
    finally:
        speak("en")
        page.close()
