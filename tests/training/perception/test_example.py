"""The example page of the docs: of this version of the page, and with a key that fits."""

from __future__ import annotations

import json
import re
from pathlib import Path

from training.perception.answers import read_key
from training.perception.make import KEY, PAGE, TEMPLATE

EXAMPLE = Path(__file__).parents[3] / "training" / "examples" / "perception"


def test_the_example_is_what_the_command_writes():
    text, key = (EXAMPLE / PAGE).read_text(encoding="utf-8"), read_key(EXAMPLE / KEY)
    before, after = TEMPLATE.read_text(encoding="utf-8").split("DATA")
    assert text.startswith(before) and text.endswith(after)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["study"] == key["study"]
    assert {item["id"] for item in data["singles"]} == set(key["singles"])
    assert {item["id"] for item in data["sets"]} == set(key["sets"])
    assert all(len({each["file"] for each in key[part].values()}) == len(key[part]) for part in ("singles", "sets"))
