"""A file of settings that is no JSON, or too deep to be read, is named by whoever reads it."""

from __future__ import annotations

import pytest

from reposedm_core.errors import InputError
from training.adapters.human_art import read_coco
from training.data.captioned_set import Captioned
from training.data.captions import open_captions
from training.data.people_set import People
from training.preparation.captioning import read_mapping
from training.preparation.packing import PeopleWriter
from training.preparation.plan import Plan
from training.synthetic.generate import Arguments, describe

READERS = {
    "people set": lambda root: People(root, "train"),
    "captioned set": lambda root: Captioned(root, "train"),
    "either": lambda root: open_captions(root, "train"),
    "a set to go on with": lambda root: PeopleWriter(root, Plan([]), {}, (32, 32)),
    "a synthetic set to go on with": lambda root: describe(root, Arguments(1, 2)),
    "mapping": lambda root: read_mapping(root, root / "dataset.json", "train", 0.1, []),
    "annotations": lambda root: read_coco(root, root / "dataset.json", "train", 0.1, []),
}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "", "{", "[]", "\ud800"], ids=lambda text: ascii(text)[:9]
)
@pytest.mark.parametrize("reader", READERS)
def test_it_is_named(tmp_path, reader, text):
    (tmp_path / "dataset.json").write_text(text, errors="surrogatepass")
    with pytest.raises(InputError, match=tmp_path.name):
        READERS[reader](tmp_path)
