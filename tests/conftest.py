"""Fixtures that several test folders share: one real ComfyUI, one headless Chromium and one pack for the whole run,
and tiny models of both generations."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

# A shell's background job ignores it, and so would whatever the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch: with more threads tensors as small as the tests' take three times the processor's time, for the threads
# spin while they wait for one another. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from reposedm_core.config import (
    AlignerConfig,
    AutoencoderConfig,
    DecoderConfig,
    DenoiserConfig,
    EstimatorConfig,
    ModelConfig,
    ParserConfig,
)
from reposedm_core.networks import Networks, build_networks, parts_of
from workflows.comfy_server import ROOT, ComfyServer, read_host

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STARTING = {"comfy", "browser", "processes"}
"""Fixtures that start processes: a test that asks for one is marked like those that start some themselves."""


@pytest.fixture(scope="session")
def comfy():
    """A running ComfyUI with the pack; started once, so a test must leave it able to run the next graph."""
    with ComfyServer() as server:
        yield server


@pytest.fixture(scope="session")
def first_config() -> ModelConfig:
    """The first generation, `mini`, at 64×48 and of few channels: all networks at the picture's size."""
    return ModelConfig(
        name="tiny",
        height=64,
        width=48,
        autoencoder=AutoencoderConfig(channels=16, widths=(8, 8, 8)),
        aligner=AlignerConfig(kernels=(0, 5), channels=16, dim=32, heads=2, height=64, width=48),
        denoiser=DenoiserConfig(
            block_channels=(32,), attention=(True,), layers=1, heads_dim=16, context_dim=32, height=8, width=6
        ),
        estimator=EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8),
    )


@pytest.fixture(scope="session")
def second_config() -> ModelConfig:
    """The second generation at 64×48, of few channels: networks at half the size, a decoder that sees the source."""
    return ModelConfig(
        name="tiny-256",
        height=64,
        width=48,
        steps=2,
        autoencoder=AutoencoderConfig(stride=16, widths=(8, 8, 16)),
        estimator=EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8),
        aligner=AlignerConfig(
            kind="matching", kernels=(0, 3), blocks=1, channels=8, dim=16, heads=2, height=32, width=24, shrink=2
        ),
        denoiser=DenoiserConfig(block_channels=(16, 32), heads_dim=16, context_dim=16, height=4, width=3),
        decoder=DecoderConfig("reference", (8, 16, 16), flat=True),
        parser=ParserConfig(widths=(4, 8, 8), height=64, width=48),
        layout=ParserConfig(widths=(4, 8, 8), height=64, width=48),
    )


@pytest.fixture(scope="session")
def shaken():
    """config → its networks with random weights everywhere, so that every input has an influence."""

    def build(config: ModelConfig, aligner: bool = True) -> Networks:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            networks = build_networks(config, aligner)
        for part in parts_of(config):
            for weight in getattr(networks, part).parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        return networks

    return build


@pytest.fixture(scope="session")
def browser():
    """Playwright's handle on a headless Chromium; tests that use it carry the mark `browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pack() -> Iterator[ModuleType]:
    """The pack, imported as ComfyUI imports it: by path, under a name of the host's choice, on the CPU."""
    comfyui, _ = read_host()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(comfyui)
        import comfy.cli_args

        patch.setattr(comfy.cli_args.args, "cpu", True)
        spec = importlib.util.spec_from_file_location("a-pack", ROOT / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        module.nodes.host.folders.register_folders()
        yield module


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if not STARTING.isdisjoint(item.fixturenames):
            item.add_marker("processes")
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="no Chromium here: nothing was seen in a browser"))


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("skipped", [])
    skipped = sum("no Chromium here" in str(report.longrepr) for report in reports)
    if skipped:
        terminalreporter.section("NO BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{skipped} browser tests were SKIPPED: install chromium (Debian) and run again.")
