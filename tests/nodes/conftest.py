"""Small checkpoints and models for the nodes inside this process, for what cannot be seen through the server."""

from __future__ import annotations

import pytest
import torch

from reposedm_core.pose import load_pose_file, to_keypoints
from tests.nodes import families
from tests.nodes.guided import OUTPUTS, POSE, POSES


@pytest.fixture(scope="session")
def tiny(pack, first_config, tmp_path_factory):
    """Path of a RePoseDM checkpoint with the layout of `mini`, random weights and next to no size."""
    return save(tmp_path_factory, first_config)


@pytest.fixture(scope="session")
def tiny_256(pack, second_config, tmp_path_factory):
    """The same with the layout of `mini-256`: cells of 16 pixels, an aligner that reads poses, a reference decoder."""
    return save(tmp_path_factory, second_config)


def save(tmp_path_factory, model):
    """Path of a new checkpoint of random weights."""
    from reposedm_core.checkpoint import save_model
    from reposedm_core.config import to_dict
    from reposedm_core.networks import build_networks, parts_of

    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = build_networks(model)
        networks = {part: getattr(built, part) for part in parts_of(model)}
        # Layers that start at zero would hide what the others do.
        for network in networks.values():
            for weight in network.parameters():
                weight += 0.02 * torch.randn_like(weight)
        if model.aligner.kind == "matching":  # masks that are undecided, or the same everywhere, would be none
            aligner = networks["aligner"]
            for logits in (aligner.source_person.weight, *(match.read.weight[2:] for match in aligner.matches)):
                logits -= logits.mean((1, 2, 3), keepdim=True)
                logits *= 70
            head = networks["layout"].head
            head.weight[1:] *= 0
            head.weight[0] -= head.weight[0].mean()
            head.weight[0] *= 70
    path = tmp_path_factory.mktemp("models") / f"{model.name}.safetensors"
    save_model(path, networks, to_dict(model), dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def reposesd_state(pack):
    """Weights of a small RePoseSD U-Net in LDM's layout, 8 channels in, 4 out; its context is as wide as mini's."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from reposedm_core import PRESETS

    network = UNetModel(
        image_size=32,
        in_channels=8,
        out_channels=4,
        model_channels=64,
        num_res_blocks=[1, 1],
        channel_mult=[1, 2],
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        context_dim=PRESETS["mini"].denoiser.context_dim,
        num_head_channels=64,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        legacy=False,
        operations=comfy.ops.disable_weight_init,
    )
    generator = torch.Generator().manual_seed(0)
    return {
        "model.diffusion_model." + key: torch.ones(value.shape)
        if key.endswith("norm.weight")
        else 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in network.state_dict().items()
    }


@pytest.fixture(scope="session")
def tiny_vae(pack):
    """Random weights of the host's smallest VAE of Stable Diffusion."""
    from comfy.taesd.taesd import TAESD

    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.ones(()) if key.startswith("vae_") else 0.06 * torch.randn(value.shape, generator=generator)
        for key, value in TAESD().state_dict().items()
    }


@pytest.fixture(scope="session")
def reposesd_file(reposesd_state, tiny_vae, tmp_path_factory):
    """A RePoseSD checkpoint of a small U-Net and a small VAE, without a text encoder."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("checkpoints") / "with_vae.safetensors"
    save_file({**reposesd_state, **{"first_stage_model." + key: value for key, value in tiny_vae.items()}}, path)
    return path


@pytest.fixture(scope="module")
def host(pack, tiny_256):
    """MODEL, VAE, aligner and estimator of the second generation; files about the first have a `host` of their own."""
    return pack.nodes.loaders.load_checkpoint(tiny_256)


@pytest.fixture
def align(pack, host):
    """What Recurrent Pose Aligner gives, by the names of its outputs."""

    def run(source, pose, width=0, height=0, host=host, **options):
        with torch.inference_mode():
            node = pack.nodes.aligner.RecurrentPoseAlignerNode
            found = node.execute(host[2], host[1], source, pose, width, height, **options).args
        return dict(zip(OUTPUTS, found, strict=True))

    return run


@pytest.fixture(scope="module")
def estimator(pack, tiny):
    return pack.nodes.loaders.load_checkpoint(tiny)[3]


@pytest.fixture(scope="module")
def made(pack):
    """Model and VAE of a family, built when they are first asked for."""
    known = {}

    def make(family):
        if family not in known:
            model = families.build(family)
            known[family] = model, families.vae(model)
        return known[family]

    return make


@pytest.fixture
def guide(pack, estimator):
    def run(model, vae, pose=POSE, strength=0.1, start=0.0, end=1.0, space="heatmaps", limit=0.1, **options):
        with torch.inference_mode():
            return pack.nodes.guidance.PoseInteractionFieldGuidance.execute(
                model, vae, options.pop("estimator", estimator), pose, strength, start, end, space, limit, **options
            ).args[0]

    return run


@pytest.fixture(scope="module")
def frames():
    """The example people's target poses, each as a frame of POSE_KEYPOINT."""
    return [to_keypoints(load_pose_file(path))[0] for path in POSES]


@pytest.fixture(scope="module")
def sources():
    """Three random pictures, 64 × 80, as IMAGE."""
    return torch.rand(3, 80, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def output(monkeypatch, tmp_path, pack):
    """ComfyUI's output folder, empty."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path
