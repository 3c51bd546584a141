"""RePoseSD Loader on checkpoints in HumanSD's layout."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from reposedm_core import PRESETS
from tests.fixtures import graphs
from tests.fixtures.graphs import Run, node
from workflows.comfy_server import ROOT

LAYOUT = ROOT / "tests" / "fixtures" / "humansd" / "keys.json"
EXAMPLE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0].name.removesuffix("_pose.json")
UNET = "model.diffusion_model."
CONTEXT = PRESETS["mini"].denoiser.context_dim


@pytest.fixture(scope="module")
def checkpoint(reposesd_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "small.safetensors"
    save_file(reposesd_state, path)
    return path


def sample(pack, model, pose=None, cfg=2.0):
    extra = {} if pose is None else {pack.nodes.host.reposesd_model.POSE_LATENT: pose}
    generator = torch.Generator().manual_seed(1)
    positive, negative = ([[torch.randn(1, 77, CONTEXT, generator=generator), {**extra}]] for _ in range(2))
    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, 4, 8, 6)}
        return pack.nodes.sampler.RePoseDMKSampler.execute(
            model, positive, negative, latent, 0, 2, cfg, "euler", "normal", 1.0
        ).args[0]["samples"]


def test_pose_latent_of_the_conditioning_reaches_the_network(pack, checkpoint):
    model, clip, vae = pack.nodes.reposesd.load_checkpoint(checkpoint)
    assert clip is None and vae.first_stage_model is None, "this file has neither"
    without, zero, one = (sample(pack, model, pose) for pose in (None, torch.zeros(1, 4, 8, 6), torch.ones(1, 4, 8, 6)))
    assert without.shape == (1, 4, 8, 6) and without.isfinite().all()
    assert torch.equal(without, zero)
    assert (one - zero).abs().max() > 1e-3
    assert sample(pack, model, torch.ones(1, 4, 16, 12)).equal(one), "another size is fitted"


@pytest.fixture(scope="module")
def offered(comfy, reposesd_file, tiny_vae):
    """A file, a folder of diffusers and a LoRA in the server's folders."""
    from dataclasses import replace

    from reposedm_core.reposesd.network import RePoseSD

    for name in ("checkpoints", "loras"):
        (comfy.models / name).mkdir(exist_ok=True)
    (comfy.models / "checkpoints" / "small8.safetensors").write_bytes(reposesd_file.read_bytes())
    folder = comfy.models / "diffusers" / "small8"
    sizes = replace(
        PRESETS["sd21"].denoiser, block_channels=(64, 128), attention=(True, False), layers=1, context_dim=CONTEXT
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RePoseSD(sizes).unet.save_pretrained(folder / "unet")
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
        save_file(
            {f"{name}.lora_up.weight": torch.randn(64, 2), f"{name}.lora_down.weight": torch.randn(2, CONTEXT)},
            comfy.models / "loras" / "small.safetensors",
        )
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    save_file(tiny_vae, folder / "vae" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("checkpoint", ["small8.safetensors", "small8/"])
def test_stock_nodes_run_it_in_the_server(comfy, offered, checkpoint):
    """Load LoRA and KSampler, on a batch; the pose and the LoRA both have a say."""

    def run(strength=1.0, lora=1.0):
        # RePoseDM's tokens stand for a text: a text encoder for so small a network does not exist.
        graph = {
            "load": node("RePoseDMSDLoader", checkpoint=checkpoint),
            "lora": node("LoraLoaderModelOnly", model=["load", 0], lora_name="small.safetensors", strength_model=lora),
            "mini": graphs.shipped(),
            "example": node("RePoseDMExample", example=EXAMPLE),
            "align": graphs.align(["example", 0], ["example", 1], "mini"),
            "empty": graphs.empty(64, 96, 2),
            "pose": node(
                "RePoseDMSDConditioning",
                positive=["align", 0],
                negative=["align", 1],
                vae=["load", 2],
                pose=["example", 1],
                width=512,
                height=512,
                strength=strength,
                start_percent=0.0,
                end_percent=1.0,
                style="auto",
                negative_pose="auto",
                latent=["empty", 0],
            ),
            "sample": graphs.sample(
                ["pose", 2], "lora", "KSampler", "pose", cfg=3.0, sampler_name="dpmpp_2m", scheduler="karras"
            ),
            "save": graphs.save("sample"),
            "show": graphs.show("pose", 3),
        }
        done = Run(comfy, graph)
        assert len(done.pictures("show")) == 1
        return done.latent("save")

    latent = run()
    assert latent.shape == (2, 4, 12, 8) and latent.isfinite().all() and latent.std() > 0.1
    for other in (run(strength=0.0), run(lora=0.0)):
        assert (other - latent).abs().max() > 1e-3 * latent.std()


def test_list_of_the_page_has_files_and_folders(comfy, offered):
    options = comfy.object_info()["RePoseDMSDLoader"]["input"]["required"]["checkpoint"]
    assert {"small8.safetensors", "small8/"} <= set(options[1]["options"])


def test_input_is_noise_then_scaled_pose(pack, checkpoint, monkeypatch):
    model = pack.nodes.reposesd.load_checkpoint(checkpoint)[0]
    seen = []
    network = model.model.diffusion_model
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda x, *args, **kwargs: seen.append(x.clone()) or forward(x, *args, **kwargs)
    )
    sample(pack, model, torch.full((1, 4, 8, 6), 2.0), cfg=1.0)
    assert seen[0].shape == (1, 8, 8, 6)
    assert torch.allclose(seen[0][:, 4:], torch.full((1, 4, 8, 6), 2 * 0.18215))
    assert seen[0][:, :4].std() > 0.5


def test_ckpt_file_of_a_trainer_is_read_without_running_it(pack, reposesd_state, tmp_path):
    path = tmp_path / "small.ckpt"
    torch.save({"state_dict": reposesd_state, "global_step": 3}, path)
    network = pack.nodes.reposesd.load_checkpoint(path)[0].model.diffusion_model
    first = network.state_dict()["input_blocks.0.0.weight"]
    assert torch.equal(first, reposesd_state[UNET + "input_blocks.0.0.weight"])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_exported_network_predicts_the_same_in_the_host(pack, tmp_path, prediction):
    """Core writes it, the host's own U-Net reads it: names, heads and what is predicted must all be right."""
    from dataclasses import replace

    from reposedm_core.diffusion.autoencoder import KLAutoencoder
    from reposedm_core.diffusion.schedule import DiffusionSchedule
    from reposedm_core.reposesd.network import GuidedRePoseSD, RePoseSD, TextCondition, save_reposesd

    sd21 = PRESETS["sd21"]
    config = replace(
        sd21,
        schedule=replace(sd21.schedule, prediction=prediction),
        autoencoder=replace(sd21.autoencoder, widths=(8, 8, 8, 8)),
        denoiser=replace(
            sd21.denoiser,
            block_channels=(64, 128),
            attention=(True, False),
            layers=1,
            context_dim=CONTEXT,
            norm_groups=32,
        ),
    )
    generator = torch.Generator().manual_seed(0)
    network = RePoseSD(config.denoiser).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.copy_(0.05 * torch.randn(weight.shape, generator=generator) + (weight.ndim == 1) * 0.5)
    path = tmp_path / "own.safetensors"
    save_reposesd(path, network, KLAutoencoder(config.autoencoder), {}, config, dtype=torch.float32)
    # The host knows a VAE of the full size only.
    save_file({key: value for key, value in load_file(path).items() if not key.startswith("first_stage")}, path)
    model = pack.nodes.reposesd.load_checkpoint(path)[0]
    x, pose = (torch.randn(1, 4, 8, 6, generator=generator) for _ in range(2))
    tokens, sigma = torch.randn(1, 77, CONTEXT, generator=generator), torch.tensor([1.5])
    guided = GuidedRePoseSD(network, DiffusionSchedule(config.schedule), TextCondition(pose, tokens, tokens))
    level = model.model.model_sampling.sigma(model.model.model_sampling.timestep(sigma)).float()
    with torch.inference_mode():
        found = model.model.to(x.device).apply_model(x, level, c_concat=pose, c_crossattn=tokens)
    expected = guided(x, level).x0
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_missing_weight_is_named(pack, reposesd_state, tmp_path):
    path = tmp_path / "torn.safetensors"
    save_file({key: value for key, value in reposesd_state.items() if not key.endswith("time_embed.2.bias")}, path)
    with pytest.raises(pack.reposedm_core.InputError, match=r"torn.*lacks weights.*time_embed\.2\.bias"):
        pack.nodes.reposesd.load_checkpoint(path)


def test_published_layout_builds_exactly_that_network(pack):
    """Every key and shape of HumanSD-v1's U-Net, without its 3.5 GB: on the meta device."""
    import comfy.model_detection
    import comfy.supported_models

    shapes = json.loads(LAYOUT.read_text(encoding="utf-8"))
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    reposesd = pack.nodes.reposesd
    reposesd.check_kind(state, "humansd")
    config = comfy.supported_models.SD20(comfy.model_detection.detect_unet_config(state, UNET))
    config.set_inference_dtype(torch.float16, None)
    model = reposesd.RePoseSDModel(config, device="meta")
    own = {UNET + key: list(value.shape) for key, value in model.diffusion_model.state_dict().items()}
    assert own == {key: shape for key, shape in shapes.items() if key.startswith(UNET)}
    assert model.model_type.name == "EPS"


def test_published_layout_has_a_text_encoder_and_a_vae_that_the_host_knows(pack, caplog):
    import comfy.sd
    import comfy.utils

    shapes = json.loads(LAYOUT.read_text(encoding="utf-8"))
    reposesd = pack.nodes.reposesd
    text = {
        key.removeprefix(reposesd.TEXT): torch.empty(shape, device="meta")
        for key, shape in shapes.items()
        if key.startswith(reposesd.TEXT)
    }
    assert comfy.sd.detect_te_model(comfy.utils.clip_text_transformers_convert(text, "", "")) == comfy.sd.TEModel.CLIP_H
    # One number, seen as a tensor of each shape, takes no memory.
    vae = {
        key.removeprefix(reposesd.VAE): torch.zeros(1).expand(shape)
        for key, shape in shapes.items()
        if key.startswith(reposesd.VAE)
    }
    with caplog.at_level(logging.DEBUG):
        loaded = comfy.sd.VAE(sd=vae)
    assert loaded.latent_channels == 4
    assert not [record for record in caplog.records if "VAE keys" in record.message]


def test_guidance_bends_it_as_well(pack, tiny, checkpoint):
    """Pose field guidance on a model that is not RePoseDM, through a stock VAE with weights made in inference mode."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    from reposedm_core.pose import load_pose_file, to_keypoints

    model = pack.nodes.reposesd.load_checkpoint(checkpoint)[0]
    estimator = pack.nodes.loaders.load_checkpoint(tiny)[3]
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        vae = comfy.sd.VAE(
            sd={
                key: torch.ones(()) if key.startswith("vae_") else 0.02 * torch.randn(value.shape, generator=generator)
                for key, value in TAESD().state_dict().items()
            }
        )
    assert any(weight.is_inference() for weight in vae.first_stage_model.parameters())
    pose = to_keypoints(load_pose_file(sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]))
    with torch.inference_mode():
        guided = pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
            model, vae, estimator, pose, 1.0, 0.0, 1.0, "heatmaps"
        ).args[0]
    plain, bent = sample(pack, model), sample(pack, guided)
    assert bent.isfinite().all() and not torch.equal(plain, bent)


def test_own_vae_serves_guidance_where_weights_are_streamed(pack, reposesd_file, monkeypatch):
    """On a device with streamed weights the host reads a network again for a copy that gradients pass through."""
    import comfy.model_patcher

    class Streamed(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Streamed)
    vae = pack.nodes.reposesd.load_checkpoint(reposesd_file)[2]
    assert vae.patcher.is_dynamic()
    with torch.inference_mode():
        copy = pack.nodes.host.patchers.own_copy(vae.patcher)
    weights = vae.first_stage_model.state_dict()
    assert copy is not vae.first_stage_model and weights
    assert all(torch.equal(value, weights[key]) for key, value in copy.state_dict().items())
    latent = torch.zeros(1, 4, 4, 4, requires_grad=True)
    copy.decode(latent).square().sum().backward()
    assert latent.grad.abs().max() > 0


def test_guidance_refuses_a_file_without_a_vae(pack, tiny, checkpoint):
    from reposedm_core.pose import load_pose_file, to_keypoints

    model, _, vae = pack.nodes.reposesd.load_checkpoint(checkpoint)
    estimator = pack.nodes.loaders.load_checkpoint(tiny)[3]
    pose = to_keypoints(load_pose_file(ROOT / "workflows" / "examples" / f"{EXAMPLE}_pose.json"))
    with pytest.raises(pack.reposedm_core.InputError, match="vae: the loaded file holds no VAE; load one"):
        pack.nodes.guidance.PoseInteractionFieldGuidance.execute(model, vae, estimator, pose, 1.0, 0.0, 1.0, "heatmaps")
