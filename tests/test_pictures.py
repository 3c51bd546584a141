"""Pictures and masks of every kind a user may hand in, and which are refused."""

import numpy as np
import pytest
import torch

from reposedm_core import InputError
from reposedm_core.pictures import to_image, to_mask


@pytest.mark.parametrize(("picture", "message"), [
    (torch.full((8, 8, 3), 200), "dtype int64; convert it to uint8"),
    (np.full((8, 8, 3), 60000, np.uint16), "dtype uint16; convert it to uint8"),
    (torch.ones(8, 8, 3, dtype=torch.bool), "dtype bool"),
    (torch.zeros(8, 8, 3, dtype=torch.complex64), "dtype torch.complex64.* float32 in 0..1"),
    (torch.full((8, 8, 3), 200.0), "floats from 200 to 200; bring them to 0..1"),
    (torch.linspace(-1, 1, 192).view(8, 8, 3), "floats from -1 to 1; bring them to 0..1"),
    (None, "a NoneType that holds no picture"),
    (np.array([object()]), "ndarray that holds no picture"),
])
def test_pictures_of_another_type_or_range_are_refused(picture, message):
    with pytest.raises(InputError, match="garment.*" + message):
        to_image(picture, "garment")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_every_precision_and_a_little_overshoot(dtype):
    picture = torch.tensor([-1e-4, 0.0, 0.5, 1.0, 1.0001, 1.1]).view(2, 1, 3).to(dtype)
    found = to_image(picture)
    assert found.dtype == torch.float32
    assert found.movedim(1, -1).flatten().tolist() == [-1, -1, 0, 1, 1, 1]


def test_whole_numbers_are_colours_of_eight_bits():
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 23
    expected = torch.from_numpy(array).movedim(-1, 0)[None] / 127.5 - 1
    torch.testing.assert_close(to_image(array), expected, rtol=0, atol=1e-6)


def test_masks():
    half = torch.tensor([[0.0, 0.5], [1.0, 1.0]])
    for mask in (half, half.double().numpy(), half[None, None]):
        assert torch.equal(to_mask(mask)[0, 0], half)
    assert torch.equal(to_mask(half > 0), to_mask((half > 0).byte() * 255))
    complex_half = half.to(torch.complex64)
    for wrong, message in ((complex_half, "dtype torch.complex64"), (None, "NoneType"), (200 * half, "200")):
        with pytest.raises(InputError, match="cover.*" + message):
            to_mask(wrong, "cover")
