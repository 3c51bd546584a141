"""The layout of a result before it is painted: labels, colours by hand, what the network is shown, several sources."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core import InputError, Pose, RePoseDMPipeline
from reposedm_core.alignment import Alignment
from reposedm_core.alignment.multi_source import Seen, combine
from reposedm_core.alignment.warp import identity_map
from reposedm_core.config import ModelConfig
from reposedm_core.crop import resize
from reposedm_core.garment_parser import LABELS, GarmentParser, ParserConfig
from reposedm_core.layout import Layout, LayoutNetwork, mean_colours, parse_source, person_of, predict_layout
from reposedm_core.presets import PRESETS

SMALL = ParserConfig(widths=(4, 8), height=32, width=24)
COUNT = len(LABELS)
CERTAIN = 30.0


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(cls=LayoutNetwork, config=SMALL):
    torch.manual_seed(0)
    built = cls(config).eval().requires_grad_(False)
    for weight in built.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    return built


def alignment(batch, height=16, width=12, seed=0):
    """The identity a little disturbed, with masks."""
    logits = [8 * drawn(batch, 1, height, width, seed=seed + n) - 4 for n in range(3)]
    place = identity_map(height, width).expand(batch, -1, -1, -1) + 0.2 * drawn(batch, 2, height, width, seed=seed)
    return Alignment([place], logits[:1], drawn(batch, 3, 32, 24), None, *logits[1:])


def alone(found):
    probable = found.visibility[-1].sigmoid()
    return Seen(found.image, probable, torch.ones_like(probable)[:, None])


# -- the source's labels


def test_labels_are_shares_that_sum_to_one_and_the_person_s_are_the_parser_s_own():
    parser, source, found = network(GarmentParser), drawn(2, 3, 32, 24), alignment(2)
    skeleton = 2 * drawn(2, 3, 16, 12) - 1
    labels = parse_source(parser, source, skeleton, found.source_person)
    assert labels.shape == (2, COUNT, 32, 24)
    torch.testing.assert_close(labels.sum(1), torch.ones(2, 32, 24))
    torch.testing.assert_close(person_of(labels), 1 - labels[:, :1])
    own = parser(source, resize(skeleton, (32, 24))).softmax(1)
    torch.testing.assert_close(labels[:, 1:] / person_of(labels), own[:, 1:] / person_of(own), rtol=1e-3, atol=1e-5)


# -- colours


def test_a_label_s_colour_is_the_mean_of_its_pixels_and_a_scarce_one_takes_the_person_s():
    source = torch.zeros(1, 3, 20, 20)
    source[..., :10, :], source[..., 10:, :] = 0.5, -0.25
    labels = torch.zeros(1, COUNT, 20, 20)
    labels[:, 3, :10], labels[:, 4, 10:, :10], labels[:, 0, 10:, 10:] = 1, 1, 1
    colours = mean_colours(source, labels)
    person = (200 * 0.5 - 100 * 0.25) / 300
    assert colours.shape == (1, COUNT, 3)
    torch.testing.assert_close(colours[0, 3], torch.full((3,), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(colours[0, 4], torch.full((3,), -0.25), atol=1e-3, rtol=0)
    torch.testing.assert_close(colours[0, 7], torch.full((3,), person), atol=1e-5, rtol=0)


def test_doubtful_pixels_hardly_count_and_nobody_leaves_numbers():
    source = torch.cat([torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)], -1)
    labels = torch.zeros(1, 3, 8, 16)
    labels[:, 1, :, :8], labels[:, 1, :, 8:] = 0.9, 0.1
    assert float(mean_colours(source, labels)[0, 1, 0]) > 0.95
    assert mean_colours(source, 0 * labels).isfinite().all()


def test_it_is_drawn_in_the_colours_of_the_labels():
    """A certain label in its own colour, two alike in the middle, background as nobody; enlarged with a soft edge."""
    logits = torch.full((1, 4, 2, 2), -CERTAIN)
    logits[0, 1, 0, 0] = logits[0, 2, 0, 1] = CERTAIN
    logits[0, 1:3, 1, 0], logits[0, 0, 1, 1] = CERTAIN, CERTAIN
    colours = torch.tensor([[[9.0] * 3, [0.4] * 3, [-0.6] * 3, [0.1] * 3]])
    person, picture = Layout(logits, colours).drawn((2, 2))
    torch.testing.assert_close(person, torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]]))
    for (y, x), expected in (((0, 0), 0.4), ((0, 1), -0.6), ((1, 0), -0.1)):
        torch.testing.assert_close(picture[0, :, y, x], torch.full((3,), expected))
    assert picture.abs().max() <= 0.6
    person, picture = Layout(logits, colours).drawn((9, 7))
    assert person.shape == (1, 1, 9, 7) and picture.shape == (1, 3, 9, 7) and picture.abs().max() <= 0.6


# -- the network


def shown_to(net, *given):
    """Arguments of its one call while `predict_layout` works."""
    seen = []
    handle = net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    made = predict_layout(net, *given)
    handle.remove()
    (arguments,) = seen
    return made, arguments


def test_it_is_shown_both_poses_and_the_labels_as_they_are_and_as_the_map_warps_them():
    net, found = network(), alignment(2)
    found.maps[-1] = identity_map(16, 12).expand(2, -1, -1, -1)
    source, skeleton, at = (2 * drawn(2, 3, *size, seed=n) - 1 for n, size in enumerate([(32, 24), (32, 24), (16, 12)]))
    labels = parse_source(network(GarmentParser), source, at, found.source_person)
    made, arguments = shown_to(net, source, skeleton, at, labels, found, alone(found))
    pose, from_, own, warped, visible, person = arguments
    assert torch.equal(pose, skeleton) and torch.equal(own, labels)
    torch.testing.assert_close(from_, resize(at, (32, 24)))
    torch.testing.assert_close(warped, labels, atol=1e-4, rtol=0)
    torch.testing.assert_close(visible, resize(found.visibility[-1].sigmoid(), (32, 24)))
    torch.testing.assert_close(person, resize(found.person.sigmoid(), (32, 24)))
    assert made.logits.shape == (2, COUNT, 16, 12)
    torch.testing.assert_close(made.colours, mean_colours(source, labels))


def test_pictures_of_another_size_are_brought_to_its_own():
    net, found = network(), alignment(1)
    source, skeleton, at = (2 * drawn(1, 3, 64, 40, seed=n) - 1 for n in range(3))
    labels = parse_source(network(GarmentParser), source, at, found.source_person)
    made, arguments = shown_to(net, source, skeleton, at, labels, found, alone(found))
    assert all(values.shape[-2:] == (32, 24) for values in arguments) and made.logits.shape[-2:] == (16, 12)
    assert made.drawn((64, 40))[0].shape == (1, 1, 64, 40)


def test_several_sources_are_mixed_as_their_pictures_are_and_their_colours_together():
    """The same picture three times is one; two pictures count by their visibility."""
    net, parser = network(), network(GarmentParser)
    source, skeleton, at = (2 * drawn(1, 3, 32, 24, seed=n) - 1 for n in range(3))
    one = alignment(1)
    labels = parse_source(parser, source, at, one.source_person)
    expected = predict_layout(net, source, skeleton, at, labels, one, alone(one))

    def thrice(values):
        return values.repeat(3, 1, 1, 1)

    same = Alignment([thrice(one.maps[0])], [thrice(one.visibility[0])], thrice(one.image), None, thrice(one.person))
    given = [thrice(values) for values in (source, skeleton, at, labels)]
    made = predict_layout(net, *given, same, combine(same, 3))
    torch.testing.assert_close(made.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.colours, expected.colours, rtol=1e-4, atol=1e-4)

    two, pictures = alignment(2), 2 * drawn(2, 3, 32, 24, seed=5) - 1
    two.visibility[-1][0], two.visibility[-1][1] = CERTAIN, -CERTAIN
    parsed = parse_source(parser, pictures, at.expand(2, -1, -1, -1), two.source_person)
    both = [pictures, *(values.expand(2, -1, -1, -1) for values in (skeleton, at)), parsed]
    _, arguments = shown_to(net, *both, two, combine(two, 2))
    first = Alignment([two.maps[0][:1]], [two.visibility[0][:1]], two.image[:1], None, two.person[:1])
    _, alike = shown_to(net, pictures[:1], skeleton, at, parsed[:1], first, alone(first))
    torch.testing.assert_close(arguments[3], alike[3], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (1, 3, 30, 24), "skeleton has .*30"),
        (2, (1, COUNT - 1, 32, 24), "labels"),
        (3, (1, COUNT, 16, 12), "warped"),
        (5, (1, 2, 32, 24), "person"),
    ],
)
def test_other_shapes_are_refused_by_name(place, shape, message):
    given = [drawn(1, n, 32, 24) for n in (3, 3, COUNT, COUNT, 1, 1)]
    network()(*given)
    given[place] = drawn(*shape)
    with pytest.raises(InputError, match=message):
        network()(*given)


def test_a_layout_needs_a_parser_of_the_same_labels_and_flat_colours_a_layout():
    whole = PRESETS["mini-256"]
    whole.check_together()
    for change, message in (
        ({"parser": ParserConfig("none")}, "labels.*parser"),
        ({"parser": replace(whole.parser, labels=LABELS[:-1])}, "labels.*parser"),
        ({"layout": ParserConfig("none")}, "flat.*layout"),
    ):
        with pytest.raises(InputError, match=message):
            replace(whole, **change).check_together()
    assert ModelConfig().layout.kind == "none" and not ModelConfig().decoder.flat


# -- in the pipeline


def body(seed):
    joints = np.random.default_rng(seed).uniform(2, (46, 62), (1, 18, 2))
    return Pose(np.concatenate([joints, np.ones((1, 18, 1))], -1).astype(np.float32), 64, 48)


@pytest.mark.parametrize("label", [0, 3, 4])
def test_the_result_s_person_is_where_the_layout_has_it_and_flat_in_the_label_s_colour(second_config, shaken, label):
    networks = shaken(second_config)
    networks.layout.head.weight.zero_()
    networks.layout.head.bias.copy_(CERTAIN * (torch.arange(COUNT) == label))
    pipeline, source = RePoseDMPipeline(networks), drawn(1, 3, 64, 48, seed=3)
    found = pipeline.align(source, body(0), source_pose=body(1))
    reference = found.seen.reference
    if label == 0:
        assert reference.person.max() < 1e-6 and torch.equal(reference.flat, reference.plate)
        return
    assert reference.person.min() > 1 - 1e-6
    labels = parse_source(pipeline.parser, found.source, found.start.skeleton, found.alignment.source_person)
    expected = mean_colours(found.source, labels)[0, label]
    torch.testing.assert_close(reference.flat, expected[None, :, None, None].expand(1, -1, 64, 48), atol=1e-4, rtol=0)


def test_without_a_layout_network_the_aligner_says_where_the_person_is(second_config, shaken):
    config = replace(second_config, layout=ParserConfig("none"), decoder=replace(second_config.decoder, flat=False))
    found = RePoseDMPipeline(shaken(config)).align(drawn(1, 3, 64, 48), body(0), source_pose=body(1))
    own = resize(found.alignment.person, (64, 48)).sigmoid()
    torch.testing.assert_close(found.seen.reference.person, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.seen.reference.flat, found.seen.image)


def test_on_another_background_the_layout_says_who_is_removed_from_it(second_config, shaken):
    """As in `dress`: the person of the reference, in the target's pose; the parser still labels the garment picture."""
    networks = shaken(second_config)
    networks.layout.head.weight.zero_()
    networks.layout.head.bias.copy_(CERTAIN * (torch.arange(COUNT) == 3))
    pipeline, behind = RePoseDMPipeline(networks), drawn(1, 3, 64, 48, seed=4)
    reference = pipeline.align(drawn(1, 3, 64, 48), body(0), source_pose=body(1), background=behind).seen.reference
    assert reference.hidden.all() and reference.person.min() > 0.99
    networks.layout.head.bias.copy_(CERTAIN * (torch.arange(COUNT) == 0))
    reference = pipeline.align(drawn(1, 3, 64, 48), body(0), source_pose=body(1), background=behind).seen.reference
    assert not reference.hidden.any() and torch.equal(reference.plate, behind)
