"""Batch norms folded into convolutions: the same numbers, and never those of weights that are gone."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

from reposedm_core.config import EstimatorConfig
from reposedm_core.diffusion.guided import FieldGuidance
from reposedm_core.estimator import HigherHRNet, folding
from reposedm_core.estimator.folding import fold_batch_norms, folded
from reposedm_core.field import PoseInteractionField
from reposedm_core.presets import ESTIMATORS
from tests.field.conftest import MICRO, SIZE


def estimator(config: EstimatorConfig = MICRO, dtype: torch.dtype = torch.float32, seed: int = 0) -> HigherHRNet:
    """A random estimator whose batch norms have something to do."""
    torch.manual_seed(seed)
    net = HigherHRNet(config, dtype=dtype).eval()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, middle in ((norm.running_mean, 0), (norm.running_var, 1), (norm.weight, 1), (norm.bias, 0)):
                values.data.copy_(middle + 0.2 * torch.rand_like(values))
    return net


@pytest.mark.parametrize(
    "config",
    [ESTIMATORS["mini"], replace(MICRO, channels=(4, 6, 8, 10), modules=(1, 2, 1), deconv_blocks=1)],
    ids=["mini", "four branches"],
)
def test_folded_computes_the_same(config):
    net, picture = estimator(config, torch.float64), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    before = copy.deepcopy(net.state_dict())
    folded = fold_batch_norms(net)
    for a, b in zip(net(picture), folded(picture), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def load_others(net: HigherHRNet) -> HigherHRNet:
    net.load_state_dict(estimator(seed=1).state_dict())
    return net


def replace_one(net: HigherHRNet) -> HigherHRNet:
    net.trunk.conv1.weight = nn.Parameter(2 * net.trunk.conv1.weight.detach(), requires_grad=False)
    return net


def edit_data(net: HigherHRNet) -> HigherHRNet:
    net.trunk.conv1.weight.data.mul_(2)  # no version counter sees this, and hosts load weights so
    return net


def replace_a_layer(net: HigherHRNet) -> HigherHRNet:
    net.trunk.layer1 = copy.deepcopy(net.trunk.layer1)
    net.trunk.layer1[0].conv2.weight.data.mul_(2)
    return net


def edit_statistics(net: HigherHRNet) -> HigherHRNet:
    net.trunk.bn1.running_mean.add_(0.5)
    return net


@pytest.mark.parametrize("change", [load_others, replace_one, replace_a_layer, edit_data, edit_statistics])
def test_every_run_sees_the_weights_as_they_are(change):
    """And a run those with which it began, whatever became of them."""
    field, picture = PoseInteractionField(estimator()), torch.rand(1, 3, *SIZE)
    target = field.target_from_joints(torch.rand(1, 17, 3) * torch.tensor([24.0, 32.0, 1.0]), *SIZE)
    guide = FieldGuidance(field, target, torch.tanh)

    def ask(asked: FieldGuidance) -> torch.Tensor:
        with asked.sampling():
            return asked(picture, 0.5)

    first = ask(guide)
    with guide.sampling():
        change(field.estimator)
        assert torch.equal(guide(picture, 0.5), first)
    fresh = FieldGuidance(PoseInteractionField(copy.deepcopy(field.estimator)), target, torch.tanh)
    assert torch.equal(ask(guide), ask(fresh)) and not torch.equal(ask(guide), first)
    torch.testing.assert_close(guide(picture, 0.5), ask(guide), rtol=1e-4, atol=1e-5)


def test_what_is_folded():
    net = estimator()
    made = folded(net)
    assert made is not net and made.config == net.config
    half = net.bfloat16()
    assert folded(half) is half
    assert folded(HigherHRNet(MICRO, device="meta")).trunk.conv1.weight.is_meta
    other = nn.Conv2d(3, 3, 1)
    assert folded(other) is other


def test_the_copy_is_kept_while_the_weights_stay():
    net = estimator()
    made = folded(net)
    assert folded(net) is made
    edit_data(net)
    changed = folded(net)
    assert changed is not made and folded(net) is changed
    before = len(folding._KEPT)
    del net
    gc.collect()
    assert len(folding._KEPT) == before - 1


def test_a_large_copy_is_not_kept(monkeypatch):
    net = estimator()
    size = sum(t.nbytes for t in net.state_dict().values() if t.is_floating_point())
    monkeypatch.setattr(folding, "KEPT_BYTES", size)
    assert folded(net) is folded(net)
    monkeypatch.setattr(folding, "KEPT_BYTES", size - 1)
    other = copy.deepcopy(net)
    assert folded(other) is not folded(other)


def test_the_copy_is_no_part_of_the_field():
    field = PoseInteractionField(estimator(), "features", 0.2, "predicted", [0, 3])
    keys = set(field.state_dict())
    quick = field.folded()
    assert set(field.state_dict()) == keys and not any(p is q for p in quick.parameters() for q in field.parameters())
    assert (quick.space, quick.threshold, quick.mask, quick.joints) == ("features", 0.2, "predicted", [0, 3])
    picture = torch.rand(1, 3, *SIZE)
    distance = field.distance(picture, field.target_from_image(-picture))
    torch.testing.assert_close(quick.distance(picture, quick.target_from_image(-picture)), distance)


def test_layers_of_a_host_stay():
    class Own(nn.Conv2d):
        pass

    class Operations:
        Conv2d, ConvTranspose2d = Own, nn.ConvTranspose2d

    torch.manual_seed(0)
    net = HigherHRNet(MICRO, operations=Operations).eval()
    quick = folded(net)
    kinds = [sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) for network in (net, quick)]
    assert kinds[1] == kinds[0] - 1, "only the transposed convolution is plain here"
    picture = torch.rand(1, 3, *SIZE)
    torch.testing.assert_close(quick(picture).heatmaps_half, net(picture).heatmaps_half)
