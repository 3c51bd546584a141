"""Pictures and masks of every kind a user may hand in, and which are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from reposedm_core import InputError
from reposedm_core.images import in_turn, to_image, to_mask, to_rgb

PICTURES = Path(__file__).parent / "fixtures" / "pictures"


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.full((8, 8, 3), 200), "dtype int64; convert it to uint8"),
        (np.full((8, 8, 3), 60000, np.int32), "dtype int32; convert it to uint8"),
        (torch.ones(8, 8, 3, dtype=torch.bool), "dtype bool"),
        (torch.zeros(8, 8, 3, dtype=torch.complex64), "dtype torch.complex64.* float32 in 0..1"),
        (torch.full((8, 8, 3), 200.0), "floats from 200 to 200; bring them to 0..1"),
        (torch.linspace(-1, 1, 192).view(8, 8, 3), "floats from -1 to 1; bring them to 0..1"),
        (torch.full((8, 8, 3), float("inf")), r"values that are not numbers \(NaN or infinite\)"),
        (torch.full((8, 8, 3), float("nan")), r"values that are not numbers \(NaN or infinite\)"),
        (torch.zeros(2, 8, 8, 2), r"shape \(2, 8, 8, 2\); expected"),
        (torch.zeros(8, 8, 3, device="meta"), "a meta tensor holds no picture"),
        (torch.zeros(8, 8, 3).to_sparse(), "a sparse_coo tensor holds no picture"),
        (Image.new("La", (8, 8)), "cannot read the picture of mode La .*Give a PNG or JPEG"),
        (Image.fromarray(np.full((8, 8), 70000, np.int32)), "whole numbers from 70000 to 70000; save it with 8 or 16"),
        (Image.fromarray(np.full((8, 8), 255.0, np.float32)), "floats from 255 to 255; bring them to 0..1"),
        (None, "a NoneType that holds no picture"),
        (np.array([object()]), "ndarray that holds no picture"),
    ],
)
def test_pictures_of_another_type_or_range_are_refused(picture, message):
    with pytest.raises(InputError, match="garment.*" + message):
        to_image(picture, "garment")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_every_precision_and_a_little_overshoot(dtype):
    picture = torch.tensor([-0.7, 0.0, 0.5, 1.0, 1.0001, 1.7]).view(2, 1, 3).to(dtype)
    found = to_image(picture)
    assert found.dtype == torch.float32
    assert found.movedim(1, -1).flatten().tolist() == [-1, -1, 0, 1, 1, 1]


def test_whole_numbers_are_colours_of_eight_bits():
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 23
    expected = torch.from_numpy(array).movedim(-1, 0)[None] / 127.5 - 1
    torch.testing.assert_close(to_image(array), expected, rtol=0, atol=1e-6)


def grey(size=(6, 5)):
    """A ramp of grey in 0..1, float64."""
    return np.linspace(0, 1, size[0] * size[1]).reshape(size)


def deep_pictures():
    """The ramp as PIL pictures of every kind with more than 8 bits, and the largest error of their grey levels."""
    whole = (grey() * 65535).round()
    return {
        "16 bits": (Image.fromarray(whole.astype(np.uint16)), 1 / 65535),
        "16 bits, big-endian": (Image.frombytes("I;16B", (5, 6), whole.astype(">u2").tobytes()), 1 / 65535),
        "32 bits that hold 16": (Image.fromarray(whole.astype(np.int32)), 1 / 65535),
        "32 bits that hold 8": (Image.fromarray((grey() * 255).round().astype(np.int32)), 1 / 255),
        "floats": (Image.fromarray(grey().astype(np.float32)), 1e-6),
    }


@pytest.mark.parametrize("kind", deep_pictures())
@pytest.mark.parametrize("stored", [False, True])
def test_grey_of_more_than_eight_bits(kind, stored, tmp_path):
    picture, error = deep_pictures()[kind]
    if stored:
        picture.save(tmp_path / "grey.tiff")
        picture = tmp_path / "grey.tiff"
    for found in (to_image(picture).movedim(1, -1) / 2 + 0.5, to_mask(picture)[:, 0, ..., None].expand(-1, -1, -1, 3)):
        assert found.shape == (1, 6, 5, 3) and found.dtype == torch.float32
        assert np.abs(found[0].numpy() - grey()[..., None]).max() <= error


@pytest.mark.parametrize("kind", deep_pictures())
def test_eight_bits_of_deep_pictures_are_scaled_and_not_cut_off(kind):
    found = to_rgb(deep_pictures()[kind][0])
    assert found.mode == "RGB" and np.abs(np.asarray(found) / 255 - grey()[..., None]).max() <= 1 / 255
    colours = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    assert np.array_equal(np.asarray(to_rgb(colours.convert("RGBA"))), np.asarray(colours))


def test_the_grey_picture_of_sixteen_bits_is_as_deep_as_it_is_stored():
    path = PICTURES / "grey_16_bits.png"
    expected = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32)) / 65535
    assert expected.max() > 0.9 and expected.unique().numel() > 50
    assert torch.allclose(to_image(path)[0] / 2 + 0.5, expected.expand(3, -1, -1), atol=1e-6)
    assert torch.equal(to_mask(path)[0, 0], expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_the_colours_that_they_show(mode):
    """Transparency is left out: the colours below it count, as where ComfyUI reads the file."""
    colours = Image.fromarray((np.stack([grey(), grey()[::-1], grey()[:, ::-1]], -1) * 255).astype(np.uint8))
    picture = colours.convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(40)
    shown = np.asarray(picture.convert("RGB")) / 255
    assert np.abs(to_image(picture)[0].movedim(0, -1).numpy() / 2 + 0.5 - shown).max() < 1e-6
    assert np.abs(to_mask(picture)[0, 0].numpy() - np.asarray(picture.convert("L")) / 255).max() < 1e-6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_of_whole_numbers(dtype):
    array = (np.stack([grey()] * 3, -1) * np.iinfo(dtype).max).round().astype(dtype)
    assert np.abs(to_image(array)[0].movedim(0, -1).numpy() / 2 + 0.5 - grey()[..., None]).max() < 1 / 255
    assert np.abs(to_mask(array[..., 0])[0, 0].numpy() - grey()).max() < 1 / 255


@pytest.mark.parametrize(
    ("rows", "columns"), [(3, 50), (4, 50), (50, 3), (50, 4), (3, 3), (4, 4), (1, 3), (3, 1), (1, 1)]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_few_rows_or_columns_are_no_channels(rows, columns, channels):
    picture = torch.rand(2, rows, columns, channels, generator=torch.Generator().manual_seed(0))
    found = to_image(picture, channels_last=True)
    assert found.shape == (2, 3, rows, columns)
    expected = picture[..., :3] * 2 - 1 if channels > 1 else picture.expand(-1, -1, -1, 3) * 2 - 1
    assert torch.allclose(found.movedim(1, -1), expected, atol=1e-6)
    if channels > 1:  # of what can be read both ways, this is the one that is meant
        assert torch.equal(to_image(picture), found)
    if columns == 50:
        assert torch.allclose(to_image(expected.movedim(-1, 1) / 2 + 0.5), found, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 4])
def test_what_a_bicubic_resize_overshoots_is_clamped(scale):
    line_art = to_image(PICTURES / "line_art.png") / 2 + 0.5
    large = F.interpolate(line_art, scale_factor=scale, mode="bicubic")
    twice = F.interpolate(large, scale_factor=1.5, mode="bicubic")
    assert large.min() < -0.25 and large.max() > 1.25, "else nothing is tested"
    for picture in (large, twice):
        assert torch.equal(to_image(picture), picture.clamp(0, 1) * 2 - 1)
        assert torch.equal(to_mask(picture[0, 0]), picture[:, :1].clamp(0, 1))


def test_masks():
    half = torch.tensor([[0.0, 0.5], [1.0, 1.0]])
    for mask in (half, half.double().numpy(), half[None, None]):
        assert torch.equal(to_mask(mask)[0, 0], half)
    assert torch.equal(to_mask(half > 0), to_mask((half > 0).byte() * 255))
    assert torch.equal(to_mask((half > 0).long()), to_mask(half > 0))
    several = torch.rand(3, 2, 5)
    for masks in (several, several[:, None], several.numpy()):
        assert torch.equal(to_mask(masks), several[:, None])
    for wrong, message in (
        (half.to(torch.complex64), "dtype torch.complex64"),
        (None, "NoneType"),
        (200 * half, "from 0 to 200; expected 0"),
        (2 * half - 1, "from -1 to 1; expected 0"),
        (half / 0, r"shape \(2, 2\) and values that are not numbers"),
        (torch.ones(5, 4, 3), r"shape \(5, 4, 3\); expected"),
        (torch.ones(4), "expected"),
    ):
        with pytest.raises(InputError, match="cover.*" + message):
            to_mask(wrong, "cover")


def test_in_turn():
    values = torch.arange(3)[:, None]
    assert in_turn(values, 7)[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert in_turn(values, 2)[:, 0].tolist() == [0, 1]
    assert in_turn(values[:1], 4).shape == (4, 1)
