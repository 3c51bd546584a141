"""The aligner trained by the diffusion loss, together with the denoiser (sections 3.1 and 3.2)."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from reposedm_core.checkpoint import load_parts, save_model
from reposedm_core.config import AlignerConfig, ModelConfig, to_dict
from reposedm_core.errors import InputError
from reposedm_core.networks import build_networks, load_networks
from reposedm_core.presets import variant
from training.data.people_set import People
from training.engine.loop import train
from training.engine.run import finished_file, run
from training.engine.settings import RePoseDMSettings, load_settings, model_of
from training.stages.denoiser import RePoseDMStage, pictures

HEIGHT, WIDTH = 64, 48


@pytest.fixture(scope="module")
def networks(weights):
    return load_networks(weights)


def stage_of(out, figures, networks, config=None, **options):
    """The stage on four pairs, prepared."""
    config = config or networks.config
    out.mkdir(exist_ok=True)
    settings = {"steps": 3, "batch": 3, "pairs": 4, "warmup": 0, "workers": 0, "train_aligner": True, **options}
    parts = {part: getattr(networks, part) for part in RePoseDMStage.needs(config)}
    stage = RePoseDMStage(config, RePoseDMSettings(**settings), figures, out, parts, torch.device("cpu"))
    stage.prepare(True)
    return stage


def batch_of(stage, **drawn):
    return {**stage.load(stage.plan(np.random.default_rng(0), 3)), **drawn}


def gradients(stage, batch):
    torch.manual_seed(0)
    module = stage.build()
    stage.initialise(module)
    for weight in module.denoiser.parameters():  # its last layer starts at zero, and nothing would come back
        weight.data.add_(0.03 * torch.randn_like(weight))
    if stage.settings.checkpointing:
        stage.checkpointed(module)
    stage.loss(module.train(), batch, 0)["loss"].backward()
    return {name: value.grad for name, value in module.named_parameters()}


@pytest.mark.parametrize("shuffle", [0.0, 1.0])
def test_the_first_step_is_that_of_the_frozen_aligner(tmp_path, figures, networks, shuffle):
    """The same draws, aligned in the step or before: one loss, recoloured and mirrored pictures included."""
    options = {"colour_shuffle": shuffle, "flip": shuffle, "vlb_weight": 1.0}
    losses = []
    for name, joint in (("joint", True), ("frozen", False)):
        stage = stage_of(tmp_path / name, figures, networks, train_aligner=joint, **options)
        batch = batch_of(stage)
        assert ("aligned" in batch) != joint
        torch.manual_seed(0)
        module = stage.build().eval()
        module.denoiser.load_state_dict(networks.denoiser.state_dict())
        stage.initialise(module)
        losses.append(stage.loss(module, batch, 0)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # what is cached is in half precision


@pytest.mark.parametrize("kind", ["picture", "latent"])
def test_the_loss_reaches_every_weight_of_both(tmp_path, figures, networks, kind):
    """Of the paper's aligner, too, whose features are E's of the picture as each iteration warped it."""
    config = variant(networks.config, "b2")
    if kind == "latent":
        aligner = AlignerConfig(
            kernels=(0, 3), radius=1, first_radius=2, blocks=1, encoder="latent", dim=16, heads=2, height=64, width=48
        )
        config = replace(config, aligner=aligner)
        torch.manual_seed(0)
        built = build_networks(config)
        for parameter in built.aligner.parameters():
            parameter.data.add_(0.03 * torch.randn_like(parameter))
        networks = replace(networks, config=config, aligner=built.aligner)
    stage = stage_of(tmp_path, figures, networks, config, colour_shuffle=0.0)
    stage.autoencoder.requires_grad_(False)
    found = gradients(stage, batch_of(stage, drop=torch.tensor([False, True, False])))
    assert not [name for name, value in found.items() if value is None], "distributed training would wait for it"
    assert sum(bool(value.any()) for name, value in found.items() if name.startswith("aligner.")) > 20
    assert not any(weight.grad is not None for weight in stage.autoencoder.parameters())


@pytest.mark.parametrize("joint", [True, False])
def test_the_frozen_networks_are_on_the_stage_s_device_when_it_goes_on(tmp_path, figures, networks, monkeypatch, joint):
    """All is cached then, so that nothing else brings them there: a run hands networks over in main memory."""
    stage_of(tmp_path, figures, networks, train_aligner=joint)
    asked = []
    networks = replace(networks, autoencoder=copy.deepcopy(networks.autoencoder).train())
    move = networks.autoencoder.to
    monkeypatch.setattr(networks.autoencoder, "to", lambda device: asked.append(device) or move(device))
    stage = stage_of(tmp_path, figures, networks, train_aligner=joint, colour_shuffle=0.0, flip=0.0)
    assert asked == [stage.device] and not stage.autoencoder.training


def test_checkpointing_changes_the_memory_alone(tmp_path, figures, networks):
    sums, kept = [], []
    for name, checkpointing in (("whole", False), ("checkpointed", True)):
        stage = stage_of(tmp_path / name, figures, networks, checkpointing=checkpointing, colour_shuffle=0.0)
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            sums.append(gradients(stage, batch_of(stage, drop=torch.zeros(3, dtype=torch.bool))))
        kept.append(sum(held))
    for name, value in sums[0].items():
        torch.testing.assert_close(sums[1][name], value, rtol=1e-4, atol=1e-6)
    assert kept[1] < 0.7 * kept[0]


def test_training_moves_the_aligner_and_goes_on_where_it_stopped(tmp_path, figures, networks):
    stage = stage_of(tmp_path, figures, networks, lr=1e-3)
    before = {name: value.clone() for name, value in networks.aligner.state_dict().items()}
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True), resume=False)
    parts = stage.parts_of(network)
    assert set(parts) == {"denoiser", "aligner"}
    moved = [name for name, value in parts["aligner"].state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) > 20 and np.isfinite(log["validation"]["x0_mse_300"])
    assert all(torch.equal(value, before[name]) for name, value in networks.aligner.state_dict().items())
    again, _ = train(stage_of(tmp_path, figures, networks, lr=1e-3), tmp_path, 0, Accelerator(cpu=True))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())
    stage.save(network, tmp_path / "reposedm.safetensors", {})
    assert set(load_parts(tmp_path / "reposedm.safetensors")[0]) == {"denoiser", "aligner"}


def test_validation_is_by_the_aligner_as_it_is_now(tmp_path, figures, networks):
    stage = stage_of(tmp_path, figures, networks)
    module = stage.build().eval().requires_grad_(False)
    stage.initialise(module)
    held = People(figures, "val")
    read = pictures(held, stage.checked)
    expected = networks.aligner(read["picture"], read["skeleton"], encode=networks.autoencoder.encode)
    torch.testing.assert_close(stage._checked(128, module)["aligned"], expected.features, rtol=1e-4, atol=1e-4)
    assert stage.sheet(module).width > 0


def test_a_run_exports_the_aligner_that_was_trained(tmp_path, figures):
    """From fresh weights (aligner.steps=0) to one file, as the configurations of the paper's presets have it."""
    overrides = [
        f"data={figures}",
        f"out={tmp_path}",
        "tracker=none",
        "vae.steps=1",
        "estimator.steps=0",
        "aligner.steps=0",
        "reposedm.steps=2",
        "reposedm.lr=0.01",
        "reposedm.train_aligner=true",
        "reposedm.workers=0",
        "vae.workers=0",
    ]
    with pytest.raises(InputError, match=r"aligner\.steps = 0, and reposedm\.train_aligner is false"):
        run(load_settings("training/configs/tiny.yaml", [*overrides, "reposedm.train_aligner=false"]))
    settings = load_settings("training/configs/tiny.yaml", overrides)
    path = run(settings)
    made, begun = load_parts(path)[0]["aligner"], load_parts(tmp_path / "aligner.safetensors")[0]["aligner"]
    trained = load_parts(tmp_path / "reposedm.safetensors")[0]["aligner"]
    assert all(torch.equal(value.float(), trained[name].half().float()) for name, value in made.items())
    assert any(not torch.equal(value, begun[name]) for name, value in trained.items())
    later = replace(settings, out=str(tmp_path / "later"), parts=str(tmp_path))
    assert finished_file("aligner", model_of(later), later) == tmp_path / "reposedm.safetensors"
    assert finished_file("estimator", model_of(later), later) == tmp_path / "estimator.safetensors"


def test_weights_to_start_from_may_hold_the_aligner_or_not(tmp_path, figures, networks):
    stage = stage_of(tmp_path, figures, networks)
    for parts in (("denoiser",), ("denoiser", "aligner")):
        path = tmp_path / f"{len(parts)}.safetensors"
        others = {part: getattr(build_networks(networks.config), part) for part in parts}
        save_model(path, others, to_dict(networks.config), dtype=torch.float32)
        module = stage.build()
        stage.initialise(module)
        stage.start_from(module, str(path))
        taken = module.aligner.state_dict()
        wanted = (others if "aligner" in parts else {"aligner": networks.aligner})["aligner"].state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in taken.items())
    save_model(path, {"aligner": networks.aligner}, to_dict(networks.config))
    with pytest.raises(InputError, match=r"reposedm\.init: .* holds aligner, and no denoiser"):
        stage.start_from(module, str(path))


def test_b1_has_none_and_one_that_learns_otherwise_is_refused(tmp_path, figures, networks):
    b1 = stage_of(tmp_path, figures, networks, variant(networks.config, "b1"))
    assert b1.build().aligner is None and not b1.joint
    config = replace(networks.config, aligner=ModelConfig().aligner)
    matching = replace(config, aligner=replace(config.aligner, kind="matching"))
    with pytest.raises(InputError, match=r"reposedm\.train_aligner: .* kind 'matching'"):
        stage_of(tmp_path, figures, networks, matching)
