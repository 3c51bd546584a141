"""What RePoseSD's training sees: cached or encoded as it goes, of people sets and of captioned ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data.captions import describe
from training.stages.reposesd.latent_cache import MOST_PEOPLE, skeleton
from training.synthetic.materials import LABELS

from .conftest import CPU, HEIGHT, WIDTH, prepared


@pytest.mark.parametrize("cache", [True, False])
def test_a_batch_is_what_the_data_set_says(folder, figures, tmp_path, cache):
    stage = prepared(folder, figures, tmp_path, cache=cache)
    plan = stage.plan(np.random.default_rng(0), 3)
    batch = stage.encoded(stage.load(plan))
    examples = [stage.data.read(int(number)) for number in stage.numbers[plan["row"]]]
    with torch.no_grad():
        target = stage.autoencoder.encode(torch.stack([example.picture for example in examples]))
        tokens = stage.text(stage.text.ids([example.caption for example in examples]))
    torch.testing.assert_close(batch["target"], target, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(batch["tokens"], tokens, rtol=2e-3, atol=2e-3)
    assert batch["pose"].shape == target.shape and not torch.allclose(batch["pose"], target, atol=0.01)
    assert np.array_equal(batch["joints"][:, 0].numpy(), np.stack([example.joints[0] for example in examples]))


def test_the_cache_goes_on_where_it_stopped_and_is_made_anew_for_other_networks(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    kept = {name: np.array(array) for name, array in stage.cache.arrays.items()}
    done = np.load(tmp_path / "reposesd.train" / "done.npy", mmap_mode="r+")
    target = np.load(tmp_path / "reposesd.train" / "target.npy", mmap_mode="r+")
    done[3], target[3], target[12] = 0, 0, 7
    del done, target
    again = prepared(folder, figures, tmp_path).cache.arrays
    assert np.array_equal(again["target"][3], kept["target"][3]) and (again["target"][12] == 7).all()
    stage.autoencoder.vae.encoder.conv_in.weight.data.mul_(1.5)
    stage.cache.make(stage.autoencoder, stage.text, CPU, (figures / "dataset.json").read_bytes())
    assert not np.allclose(stage.cache.arrays["target"][12], 7)
    assert not np.array_equal(stage.cache.arrays["target"][3], kept["target"][3])


@pytest.mark.parametrize(
    ("dropout", "caption", "both", "text"),
    [(0, 0, 0, 0), (0.3, 0, 0.3, 0.3), (0, 0.4, 0, 0.4), (0.5, 0.5, 0.5, 0.75), (1, 0, 1, 1)],
)
def test_the_shares_of_dropped_examples(folder, figures, tmp_path, dropout, caption, both, text):
    stage = prepared(folder, figures, tmp_path, dropout=dropout, caption_dropout=caption)
    plan = stage.plan(np.random.default_rng(0), 1000)
    assert plan["drop"].mean() == pytest.approx(both, abs=0.05)
    assert plan["drop_text"].mean() == pytest.approx(text, abs=0.05)
    assert plan["drop_text"][plan["drop"]].all()


def test_a_captioned_set_is_cut_at_the_drawn_places_and_shows_everybody(folder, crowd, tmp_path):
    stage = prepared(folder, crowd, tmp_path, cache=False)
    plan = stage.plan(np.random.default_rng(0), 4)
    batch = stage.load(plan)
    for row, (number, place) in enumerate(zip(stage.numbers[plan["row"]], plan["place"], strict=True)):
        example = stage.data.read(int(number), tuple(place))
        assert torch.equal(batch["picture"][row], example.picture)
        assert torch.equal(batch["ids"][row], stage.text.ids([example.caption])[0])
        seen = (batch["joints"][row, ..., 2] > 0).any(1).sum()
        assert seen == min(len(example.joints), MOST_PEOPLE)
        # Each person's skeleton is in the picture: without the last one it is another.
        alone = replace(example, poses=example.poses[:-1])
        assert not torch.equal(batch["skeleton"][row], skeleton(alone))
        assert torch.equal(batch["skeleton"][row], skeleton(example))
    assert batch["picture"].shape == (4, 3, HEIGHT, WIDTH)


def test_captions_of_people_name_the_colours_of_their_clothes():
    picture, garments = np.zeros((12, 12, 3), np.uint8), np.zeros((12, 12), np.uint8)
    picture[:] = (235, 235, 235)
    for label, rows, colour in (
        (2, slice(0, 2), (15, 10, 10)),
        (3, slice(2, 6), (205, 30, 40)),
        (4, slice(6, 10), (40, 85, 200)),
    ):
        garments[rows, 3:9], picture[rows, 3:9] = label, colour
    assert describe(picture, garments) == (
        "a photo of a person with black hair wearing red top, blue trousers or skirt, white background"
    )
    assert describe(picture, np.zeros_like(garments)).startswith("a photo of a person, ")
    garments[garments == LABELS.index("top")] = LABELS.index("dress")
    assert "wearing blue trousers or skirt, red dress" in describe(picture, garments)
