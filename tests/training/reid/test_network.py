"""The network of re-identification: it learns, goes on after a stop as if there had been none, and takes weights."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core.errors import InputError
from training.engine.signals import Stopped
from training.metrics.retrieval import retrieve
from training.reid import network
from training.reid.network import Net, Recipe, disturbed, draw_batch, features, rate, train


@pytest.fixture(scope="module")
def crowd():
    """Pictures (n, 32, 16, 3) of six people, told by the height of a bar of any colour; labels (n,) and cameras."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 8)
    pictures = rng.integers(0, 90, (48, 32, 16, 3))
    for n, person in enumerate(labels):
        pictures[n, 2 + 5 * person : 5 + 5 * person] = rng.integers(120, 255, 3)
    return pictures.astype(np.uint8), labels, np.tile(np.arange(8), 6) % 2


def test_it_learns_who_is_who(crowd, recipe, tmp_path):
    pictures, labels, cameras = crowd
    seen = np.arange(48) % 8 < 4
    recipe = replace(recipe, steps=40, people=6, lr=2e-3, save_every=100)

    def map_of(net) -> float:
        found = features(net, pictures[~seen])
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        known = labels[~seen], cameras[~seen]
        return retrieve(1 - found @ found.T, *known, *known).ap.mean()

    torch.manual_seed(0)
    before = map_of(Net(recipe, 6).eval())
    assert map_of(train(recipe, pictures[seen], labels[seen], 0, tmp_path / "a.pt")) > max(0.7, before + 0.1)


def test_a_stop_changes_nothing(crowd, recipe, tmp_path, monkeypatch):
    pictures, labels, _ = crowd
    whole = train(recipe, pictures, labels, 5, tmp_path / "whole.pt").state_dict()
    calls = []

    def stopping(*given):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return draw_batch(*given)

    monkeypatch.setattr(network, "draw_batch", stopping)
    with pytest.raises(Stopped, match="step 3 of 4"):
        train(recipe, pictures, labels, 5, tmp_path / "state.pt")
    resumed = train(recipe, pictures, labels, 5, tmp_path / "state.pt").state_dict()
    assert len(calls) == 4 and all(torch.equal(whole[key], resumed[key]) for key in whole)
    with pytest.raises(InputError, match="of another training"):
        train(recipe, pictures, labels, 6, tmp_path / "state.pt")
    other = train(recipe, pictures, labels, 6, tmp_path / "other.pt").state_dict()
    assert any(not torch.equal(whole[key], other[key]) for key in whole)


def test_a_batch_has_so_many_people_and_so_many_pictures_of_each(recipe):
    labels = np.repeat(np.arange(9), [1, 5, 5, 5, 5, 5, 5, 5, 5])
    for seed in range(20):
        chosen = draw_batch(np.random.default_rng(seed), labels, Recipe(people=4, each=3))
        people, times = np.unique(labels[chosen], return_counts=True)
        assert len(people) == 4 and (times == 3).all()
        assert all(len(set(chosen[labels[chosen] == p])) == min(3, (labels == p).sum()) for p in people)


def test_disturbed_pictures_are_mostly_the_same():
    pictures = np.full((64, 40, 20, 3), 77, np.uint8)
    moved = disturbed(np.random.default_rng(0), pictures)
    same = (moved == 77).all(-1).mean((1, 2))
    assert moved.shape == pictures.shape and same.min() > 0.4 and same.max() > 0.85


def test_the_learning_rate_rises_and_falls():
    rates = [rate(step, 100) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == 1 and rates[-1] < 0.01
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_weights_of_the_backbone(recipe, tmp_path):
    torch.manual_seed(1)
    given = Net(recipe, 2).backbone.state_dict()
    torch.save({**given, "fc.weight": torch.zeros(3, 3)}, tmp_path / "own.pth")
    loaded = Net(replace(recipe, weights=str(tmp_path / "own.pth")), 2).backbone.state_dict()
    assert all(torch.equal(given[key], loaded[key]) for key in given)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"is not of test_resnet: .* weights are missing"):
        Net(replace(recipe, weights=str(tmp_path / "other.pth")), 2)
    with pytest.raises(InputError, match="timm has no such model"):
        Net(replace(recipe, backbone="resnet49"), 2)
