"""Messages can be shown anywhere, however long or broken what they quote is."""

from __future__ import annotations

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.checks import check_tensor
from reposedm_core.errors import MESSAGE, QUOTED, quoted, shortened
from reposedm_core.estimator.official import config_of
from reposedm_core.field.selection import chosen_joints, chosen_people
from reposedm_core.presets import variant


def deep(count=100_000):
    value = []
    for _ in range(count):
        value = [value]
    return value


class Silent:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        deep(),
        list(range(10**5)),
        {"a" * 10**5: ["b"] * 10**5},
        10**6000,
        b"z" * 10**6,
        "\ud800" * 500,
        Silent(),
        torch.zeros(10**4),
        float("nan"),
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_quotations_are_short_and_can_be_encoded(value):
    assert len(quoted(value)) <= QUOTED and quoted(value).encode()
    assert len(quoted(value, 20)) <= 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("mini", "'mini'"),
        (3, "3"),
        (["a", 1], "['a', 1]"),
        (None, "None"),
        ({"b": (1.5,)}, "{'b': (1.5,)}"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_what_is_short_is_quoted_whole(value, text):
    assert quoted(value) == text


def test_beginning_and_end_of_what_is_long_are_kept():
    assert shortened("short") == "short" and shortened("é\udcff") == "é\\udcff"
    long = shortened("".join(str(n % 10) for n in range(1000)), 30)
    assert long == "0123456789012345678…0123456789" and len(long) == 30


def test_messages_keep_their_remedy():
    error = InputError(f"file: there is no {'x' * 10**5}; choose another one.")
    assert len(str(error)) == MESSAGE
    assert str(error).startswith("file: there is no xxx") and str(error).endswith("xxx; choose another one.")
    assert str(InputError("\ud800")).encode() and str(InputError()) == ""


@pytest.mark.parametrize(
    "call",
    [
        lambda text: chosen_people(text),
        lambda text: chosen_joints(text),
        lambda text: variant(None, text),
        lambda text: chosen_people("9" * 10_000),
        lambda text: chosen_people("0-" + "9" * 10_000),
        lambda text: config_of({f"stage{'9' * 5000}.0.weight": torch.zeros(1), text: torch.zeros(1)}, name=text),
    ],
)
def test_long_names_come_back_short(call):
    with pytest.raises(InputError) as error:
        call("a" * 10_000)
    assert len(str(error.value)) <= MESSAGE


def test_tensors_that_are_not_dense_are_named():
    value = torch.eye(3).to_sparse()
    with pytest.raises(InputError, match=r"it has shape \(3, 3\) and layout sparse_coo; expected a dense tensor"):
        check_tensor(value, "it", "A B")
