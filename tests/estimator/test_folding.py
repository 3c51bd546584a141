"""Batch norms folded into convolutions: the same numbers, and never those of weights that are gone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from reposedm_core.config import EstimatorConfig
from reposedm_core.estimator import HigherHRNet
from reposedm_core.estimator.folding import FoldedCopy, fold_batch_norms
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


OF_VALUE = (load_others, replace_one, replace_a_layer, edit_data, edit_statistics)


@pytest.mark.parametrize(
    "change",
    [
        *OF_VALUE,
        lambda net: net.half().float(),
        lambda net: net.double(),
        lambda net: net.bfloat16(),
        lambda net: net.double().float(),
    ],
    ids=[
        "loaded",
        "replaced",
        "another layer",
        "data",
        "statistics",
        "there and back",
        "double",
        "half",
        "double and back",
    ],
)
@pytest.mark.parametrize("inference", [False, True], ids=["", "in inference mode"])
def test_the_field_sees_every_change_of_the_weights(change, inference):
    field, picture = PoseInteractionField(estimator()), torch.rand(1, 3, *SIZE)
    joints = torch.rand(1, 17, 3) * torch.tensor([24.0, 32.0, 1.0])

    def ask(asked: PoseInteractionField) -> list[torch.Tensor]:
        return [t.float() for t in asked.gradient(picture, torch.tanh, asked.target_from_joints(joints, *SIZE))]

    first = ask(field)
    with torch.inference_mode(inference):
        change(field.estimator)
    if inference:  # a host that moved weights there makes them anew, as ComfyUI's patcher here does
        field.estimator.load_state_dict(
            {key: value.clone() for key, value in field.estimator.state_dict().items()}, assign=True
        )
        field.estimator.requires_grad_(False)
    for a, b in zip(ask(field), ask(PoseInteractionField(copy.deepcopy(field.estimator))), strict=True):
        assert torch.equal(a, b)
    assert change not in OF_VALUE or not torch.equal(ask(field)[0], first[0])


def test_what_is_folded():
    net, folded = estimator(), FoldedCopy()
    made = folded.of(net)
    assert made is not net and folded.of(net) is made, "made once"
    assert folded.of(copy.deepcopy(net)) is made, "equal weights need no other copy"
    raw = HigherHRNet(replace(MICRO, normalise="none")).eval()
    raw.load_state_dict(net.state_dict())
    assert folded.of(raw).config == raw.config, "the same weights, used in another way"
    half = net.bfloat16()
    assert folded.of(half) is half
    assert folded.of(HigherHRNet(MICRO, device="meta")).trunk.conv1.weight.is_meta
    other = nn.Conv2d(3, 3, 1)
    assert folded.of(other) is other


def test_every_weight_and_statistic_counts():
    net, folded = estimator(), FoldedCopy()
    folded.of(net)
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            before = folded.of(net)
            tensor.data.view(-1)[-1] += 1
            assert folded.of(net) is not before


def test_the_copy_is_no_part_of_the_field():
    field = PoseInteractionField(estimator())
    keys = set(field.state_dict())
    field.distance(torch.zeros(1, 3, *SIZE), field.target_from_joints(torch.ones(1, 17, 3), *SIZE))
    assert set(field.state_dict()) == keys
    assert len(list(field.parameters())) == len(list(field.estimator.parameters()))
    for again in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        again.estimator.trunk.conv1.weight.data.mul_(2)
        picture = torch.rand(1, 3, *SIZE)
        target = field.target_from_joints(torch.tensor([12.0, 16.0, 1.0]).expand(1, 17, 3), *SIZE)
        expected = PoseInteractionField(copy.deepcopy(again.estimator)).distance(picture, target)
        assert torch.equal(again.distance(picture, target), expected)
        assert not torch.equal(field.distance(picture, target), expected)


def test_layers_of_a_host_stay():
    class Own(nn.Conv2d):
        pass

    class Operations:
        Conv2d, ConvTranspose2d = Own, nn.ConvTranspose2d

    torch.manual_seed(0)
    net = HigherHRNet(MICRO, operations=Operations).eval()
    folded = fold_batch_norms(net)
    kinds = [sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) for network in (net, folded)]
    assert kinds[1] == kinds[0] - 1, "only the transposed convolution is plain here"
    picture = torch.rand(1, 3, *SIZE)
    torch.testing.assert_close(folded(picture).heatmaps_half, net(picture).heatmaps_half)


def test_while_sampling_the_weights_are_looked_at_once():
    field = PoseInteractionField(estimator())
    with field.sampling():
        inside = field._folded.of(field.estimator)
        with field.sampling():
            field.estimator.trunk.conv1.weight.data.mul_(2)
            assert field._folded.of(field.estimator) is inside
        assert field._folded.of(field.estimator) is inside, "the outer run goes on"
        assert copy.deepcopy(field)._folded.of(field.estimator) is not inside
    assert field._folded.of(field.estimator) is not inside
    half = PoseInteractionField(estimator().bfloat16())
    with half.sampling():
        assert half._folded.of(half.estimator) is half.estimator
