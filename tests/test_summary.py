"""The table of presets in the core's README is the one that the command prints, and its files exist."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from reposedm_core import PRESETS
from reposedm_core.diffusion.reference_decoder import ReferenceDecoder
from reposedm_core.summary import COLUMNS, cost, differences, measure, table

ROOT = Path(__file__).parents[1]
README = (ROOT / "reposedm_core" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def printed():
    """What python -m reposedm_core.summary prints."""
    return table().strip()


def test_readme_shows_what_the_command_prints(printed):
    shown = re.search(r"<!-- presets -->\n(.*?)\n<!-- /presets -->", README, re.DOTALL).group(1).strip()
    assert shown == printed, "run python -m reposedm_core.summary and paste its output between the markers"


def test_every_preset_has_a_full_row(printed):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line.startswith("| ")
    ][2:]
    assert [cells[0] for cells in rows] == list(PRESETS)
    assert all(len(cells) == len(COLUMNS) and all(cells) for cells in rows)


def test_costs_are_the_ones_counted_by_hand():
    layers = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * 4 * 6, 7))
    found = measure(
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * 4 * 6, 7)),
        lambda n: n(torch.empty(1, 3, 4, 6)),
    )
    assert found.parameters == sum(p.numel() for p in layers.parameters())
    assert found.flops == 2 * (4 * 6 * 5 * 3 * 9 + 5 * 4 * 6 * 7)


def test_parameters_are_those_of_the_shipped_weights():
    from reposedm_core import load_networks
    from reposedm_core.networks import SHIPPED, parts_of

    networks = load_networks(SHIPPED)
    for part, members in (
        ("denoiser", ["denoiser"]),
        ("aligner", ["aligner", "parser", "layout"]),
        ("decode", ["autoencoder", "decoder"]),
        ("estimator", ["estimator"]),
    ):
        built = [getattr(networks, name) for name in members if name in parts_of(networks.config)]
        own = sum(p.numel() for network in built for p in network.parameters())
        assert cost(networks.config, part).parameters == own


def test_a_reference_decoder_is_part_of_the_decoding():
    whole, plain = PRESETS["mini-256"], PRESETS["mini-256-b2"]
    more = ReferenceDecoder(whole.decoder)
    own = sum(p.numel() for p in more.parameters())
    assert cost(whole, "decode").parameters == cost(plain, "decode").parameters + own
    # The stem alone: 18 planes of 16 pixels to the first width, 3×3, at a quarter of 256×192.
    stem = 2 * 64 * 48 * 18 * 16 * 9 * whole.decoder.widths[0]
    assert cost(whole, "decode").flops > cost(plain, "decode").flops + stem


def test_ablations_share_what_they_do_not_change():
    whole, b1, b2 = (PRESETS["deepfashion-256x176" + end] for end in ("", "-b1", "-b2"))
    assert cost(b1, "denoiser") == cost(b2, "denoiser") == cost(whole, "denoiser")
    assert cost(b1, "aligner") is None and cost(b2, "aligner") == cost(whole, "aligner")
    assert differences(whole, b2) == "field.strength = 0.0, field.training = 0.0"


def test_a_pass_at_256x176_costs_a_tenth_of_a_pixel_space_unet():
    """The budget: PIDM's kind of U-Net, about 180 M parameters, at 256×256 (design section 7)."""
    from diffusers import UNet2DModel

    channels = tuple(128 * m for m in (1, 1, 2, 2, 4, 6))
    attends = [256 >> level in (32, 16, 8) for level in range(len(channels))]
    pixels = measure(
        lambda: UNet2DModel(
            sample_size=256,
            in_channels=6,
            out_channels=6,
            layers_per_block=2,
            block_out_channels=channels,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=64,
        ),
        lambda n: n(torch.empty(1, 6, 256, 256), torch.zeros(1)),
    )
    assert 175e6 < pixels.parameters < 190e6
    assert cost(PRESETS["deepfashion-256x176"], "denoiser").flops <= pixels.flops / 10


def test_files_that_the_readme_names_exist():
    named = set(re.findall(r"`((?:reposedm_core|tests|training)/[\w/.]+)`", README))
    here = set(re.findall(r"`((?:\w+/)?\w+\.py)`", README))
    assert len(named) > 9 and len(here) > 20
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in here if not (ROOT / "reposedm_core" / name).exists()]
    assert not missing


def test_the_file_map_is_complete():
    modules = {
        str(path.relative_to(ROOT / "reposedm_core"))
        for path in (ROOT / "reposedm_core").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert not sorted(name for name in modules if f"`{name}`" not in README)


def test_every_equation_has_its_row_and_every_equation_test_is_named():
    numbers = set()
    for first, last in re.findall(r"^\| (\d+)(?:-(\d+))? \|", README, re.MULTILINE):
        numbers |= set(range(int(first), int(last or first) + 1))
    assert numbers == set(range(1, 18))
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_equation_*.py")}
    assert not sorted(name for name in tests if f"`{name}`" not in README)
