"""Picture sheets show what they are given."""

from __future__ import annotations

import numpy as np
from PIL import Image

from workflows.sheet import MARGIN, fitted, make_card, make_sheet, make_thumbnail


def plain(colour, size=(96, 128)):
    return Image.new("RGB", size, colour)


def test_fitted_keeps_the_aspect():
    pixels = np.asarray(fitted(plain((255, 0, 0), (100, 50)), 60, 80))
    assert pixels.shape == (80, 60, 3)
    red = (pixels == (255, 0, 0)).all(-1)
    assert red[25:55].all()
    assert not red[:24].any() and not red[56:].any()


def test_sheet_has_its_panels_and_text():
    panels = [("a", plain((255, 0, 0))), ("b", plain((0, 255, 0)))]
    bare = make_sheet(panels, "title", width=60, height=80)
    assert bare.width == 2 * MARGIN + 2 * 60 + 12
    colours = {colour for _, colour in bare.getcolors(100000)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours
    longer = make_sheet(panels, "title", ["many words " * 20], width=60, height=80)
    assert longer.height > bare.height + 100
    assert np.asarray(longer)[bare.height :].std() > 0, "the text is drawn"


def test_thumbnail_is_a_square_of_four():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    picture = make_thumbnail([plain(colour) for colour in colours], 64)
    assert picture.size == (64, 64)
    assert [picture.getpixel(at) for at in ((20, 16), (44, 16), (20, 48), (44, 48))] == colours


def test_card_is_a_picture_above_words():
    card = make_card(plain((255, 0, 0), (60, 80)), "many words " * 4, 256)
    assert card.size == (256, 256)
    assert card.getpixel((128, 60)) == (255, 0, 0) and card.getpixel((2, 60)) == (0, 0, 0)
    below = np.asarray(card)[-45:]
    assert below.min() < 100 < below.max(), "the words are drawn"
