"""Configurations from files: what is not of its type, or beyond what any network has, is refused by its name."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from reposedm_core import InputError
from reposedm_core.config import ModelConfig, from_dict, to_dict
from reposedm_core.networks import build_networks
from reposedm_core.presets import PRESETS

FREE = {"name"}
"""Texts that may say anything."""


def leaves(config: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Path and value of everything in a configuration that is no configuration itself."""
    found = []
    for item in fields(config):
        value = getattr(config, item.name)
        found += leaves(value, (*path, item.name)) if is_dataclass(value) else [((*path, item.name), value)]
    return found


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The JSON form of `mini` with one value replaced."""
    data = to_dict(ModelConfig())
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return data


def damaged() -> list[tuple[tuple[str, ...], Any]]:
    """Every field with what no network has: numbers beyond all ranges, in tuples too, and words that nobody knows."""
    found = []
    for path, value in leaves(ModelConfig()):
        one = value[0] if isinstance(value, tuple) else value
        if isinstance(one, bool) or path[-1] in FREE:
            continue
        bad = ["nonsense"] if isinstance(one, str) else [-(10**9), 10**9]
        if isinstance(one, float):
            bad = [-1e9, 1e9, math.nan, math.inf]
        found += [(path, (item, *value[1:]) if isinstance(value, tuple) else item) for item in bad]
        if isinstance(value, tuple):
            found += [(path, ()), (path, value * 1000)]
    return found


@pytest.mark.parametrize(("path", "value"), damaged(), ids=lambda part: str(part)[:40])
def test_what_no_network_has_is_refused_by_name(path, value):
    with pytest.raises(InputError, match=rf"^model.*\b{path[-1]} = ") as refused:
        from_dict(ModelConfig, changed(path, value), "model")
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("steps",), 1001, "must be 1 to 1000"),
        (("height",), 60, "divisible by 8"),
        (("autoencoder", "stride"), 12, "divisible by 8"),
        (("autoencoder", "channels"), 193, "must be 1 to 192"),
        (("autoencoder", "kind"), "kl", "halve the picture 2 times"),
        (("schedule", "beta_end"), 1e-5, "must rise"),
        (("denoiser", "width"), 0, "both above 0, or both 0"),
        (("aligner", "heads"), 7, "must be divisible by 56"),
    ],
)
def test_what_contradicts_the_rest_is_refused(path, value, words):
    with pytest.raises(InputError, match=words):
        from_dict(ModelConfig, changed(path, value))


@pytest.mark.parametrize("part", ["aligner", "denoiser"])
def test_parts_that_do_not_fit_one_another_make_no_model(part):
    whole = PRESETS["market-128x64"]
    other = replace(whole, **{part: replace(getattr(whole, part), latent_channels=16)})
    with pytest.raises(InputError, match=r"Config\.latent_channels = 16: the autoencoder has 4 channels"):
        build_networks(other)


def test_values_that_a_message_quotes_are_shortened():
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    for value in ("x" * 10**6, deep, {"a": "b" * 10**6}, ["\ud800"] * 10**5, list(range(10**5))):
        with pytest.raises(InputError) as refused:
            from_dict(ModelConfig, changed(("height",), value), "model")
        assert len(str(refused.value)) < 250 and str(refused.value).encode()
