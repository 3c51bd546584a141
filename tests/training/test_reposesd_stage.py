"""RePoseSD's training: from a Stable Diffusion 2.1 on disk, on captioned people, to a file that samples."""

import json
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from reposedm_core import PRESETS
from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, FieldConfig, to_dict
from reposedm_core.diffusion.autoencoder import load_autoencoder
from reposedm_core.diffusion.reposesd import load_reposesd, reposesd_config
from reposedm_core.errors import InputError
from reposedm_core.field import HigherHRNet
from training.interrupts import Stopped
from training.loop import train
from training.settings import RePoseSDSettings
from training.stages.reposesd import RePoseSDStage
from training.stages.stable_diffusion import StableDiffusion

HEIGHT, WIDTH = 64, 48
WORDS, DIM = 12, 32
CPU = torch.device("cpu")
PRESET = replace(PRESETS["sd21"], field=FieldConfig(training=0.0))


def write_tokenizer(folder: Path) -> int:
    """CLIP's byte-pair files of lower-case letters with two merges; how many words they have."""
    folder.mkdir()
    pairs = ["r e", "re d</w>"]
    words = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase), "re", "red</w>",
             "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    return len(words)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A Stable Diffusion 2.1 as diffusers saves it, of few channels, random everywhere."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    root = tmp_path_factory.mktemp("stable-diffusion")
    words = write_tokenizer(root / "tokenizer")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=DIM,
        attention_head_dim=(1, 2), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), use_linear_projection=True)
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                        block_out_channels=(8, 8, 8, 8), layers_per_block=2, norm_num_groups=8, latent_channels=4)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=words, hidden_size=DIM, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
        max_position_embeddings=WORDS, hidden_act="gelu", bos_token_id=words - 2, eos_token_id=words - 1,
        pad_token_id=words - 1))
    for network, part in ((unet, "unet"), (vae, "vae"), (text, "text_encoder")):
        for weight in network.parameters():
            weight.data.add_(0.02 * torch.randn_like(weight))
        network.save_pretrained(root / part)
    DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                  prediction_type="v_prediction").save_pretrained(root / "scheduler")
    return root


def stage_of(folder, root, out, config=PRESET, **settings):
    known = {"steps": 3, "batch": 2, "lr": 1e-3, "warmup": 0, "workers": 0, "start": str(folder), **settings}
    return RePoseSDStage(config, RePoseSDSettings(**known), root, out, {}, CPU)


def prepared(*arguments, **settings):
    stage = stage_of(*arguments, **settings)
    stage.prepare(True)
    return stage


def started(stage):
    module = stage.build()
    stage.initialise(module)
    return module


def same(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())


def test_the_folder_says_sizes_and_schedule(folder):
    config = StableDiffusion(folder, PRESET).config
    assert config.denoiser.block_channels == (64, 128) and config.denoiser.attention == (True, False)
    assert (config.denoiser.heads_dim, config.denoiser.context_dim, config.denoiser.layers) == (64, DIM, 1)
    assert config.autoencoder.widths == (8, 8, 8, 8) and config.autoencoder.scaling == 0.18215
    assert config.schedule.prediction == "v_prediction" and config.schedule.beta_end == 0.012


@torch.no_grad()
def test_step_0_is_stable_diffusion_whatever_the_pose(folder, figures, tmp_path):
    from diffusers import UNet2DConditionModel

    module = started(stage_of(folder, figures, tmp_path)).eval()
    theirs = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    generator = torch.Generator().manual_seed(0)
    z, pose = (torch.randn(2, 4, 8, 6, generator=generator) for _ in range(2))
    tokens, t = torch.randn(2, WORDS, DIM, generator=generator), torch.tensor([700, 20])
    expected = theirs(z, t, encoder_hidden_states=tokens).sample
    found = module(z, t, pose, tokens)
    assert all(torch.equal(module(z, t, other, tokens), found) for other in (100 * pose, 0 * pose))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(module.unet.conv_in.weight[:, :4], theirs.conv_in.weight)
    assert not module.unet.conv_in.weight[:, 4:].any()


@torch.no_grad()
def test_hidden_states_are_transformers_own(folder):
    from transformers import CLIPTextModel, CLIPTokenizer

    text = StableDiffusion(folder, PRESET).text_encoder()
    captions = ["red hat", "", "a very long caption that does not fit"]
    ids = text.ids(captions)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    assert ids.shape == (3, WORDS) and torch.equal(ids, tokenizer(
        captions, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt").input_ids)
    model = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    assert torch.equal(text(ids), model(ids).last_hidden_state)


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
    done[3], target[3], target[4] = 0, 0, 7
    del done, target
    again = prepared(folder, figures, tmp_path).cache.arrays
    assert np.array_equal(again["target"][3], kept["target"][3]) and (again["target"][4] == 7).all()
    stage.autoencoder.vae.encoder.conv_in.weight.data.mul_(1.5)
    stage.cache.make(stage.autoencoder, stage.text, CPU, (figures / "dataset.json").read_bytes())
    assert not np.allclose(stage.cache.arrays["target"][4], 7)
    assert not np.array_equal(stage.cache.arrays["target"][3], kept["target"][3])


@torch.no_grad()
def test_a_batch_s_loss_is_the_mean_of_its_examples(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    module = started(stage).eval()
    batch = stage.load(stage.plan(np.random.default_rng(0), 4))
    whole = stage.loss(module, batch, 0)["loss"]
    parts = [stage.loss(module, {name: value[i:i + 1] for name, value in batch.items()}, 0)["loss"] for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_dropped_conditions_are_what_sampling_has_without_them(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    seen = []

    def model(z, t, pose, tokens):
        seen.append((pose, tokens))
        return torch.zeros_like(z)

    stage.loss(model, {**batch, "drop": torch.tensor([True, False, False]),
                       "drop_text": torch.tensor([True, True, False])}, 0)
    (pose, tokens), = seen
    assert not pose[0].any() and torch.equal(pose[1:], batch["pose"][1:])
    empty = stage.text(stage.text.ids([""]))[0]
    assert torch.equal(tokens[0], empty) and torch.equal(tokens[1], empty)
    assert torch.equal(tokens[2], batch["tokens"][2]) and not torch.equal(tokens[2], empty)


@pytest.mark.parametrize(("dropout", "caption", "both", "text"), [(0, 0, 0, 0), (0.3, 0, 0.3, 0.3), (0, 0.4, 0, 0.4),
                                                                  (0.5, 0.5, 0.5, 0.75), (1, 0, 1, 1)])
def test_the_shares_of_dropped_examples(folder, figures, tmp_path, dropout, caption, both, text):
    stage = prepared(folder, figures, tmp_path, dropout=dropout, caption_dropout=caption)
    plan = stage.plan(np.random.default_rng(0), 1000)
    assert plan["drop"].mean() == pytest.approx(both, abs=0.05)
    assert plan["drop_text"].mean() == pytest.approx(text, abs=0.05)
    assert plan["drop_text"][plan["drop"]].all()


def test_attention_alone_is_trained_where_asked(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path, train="attention")
    before = {key: value.clone() for key, value in started(stage).state_dict().items()}
    network, _ = train(stage, tmp_path, 0, Accelerator(cpu=True))
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all("attn" in key or "conv_in" in key for key in moved)
    assert any("conv_in" in key for key in moved) and any("attn2" in key for key in moved)
    with pytest.raises(InputError, match=r"reposesd.train = 'some': known are all, attention"):
        stage_of(folder, figures, tmp_path, train="some")


def test_a_few_examples_are_learnt(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path, pictures=2, dropout=0.0, steps=25, lr=2e-3, ema=0.5)
    batch = stage.load(stage.plan(np.random.default_rng(5), 8))
    with torch.no_grad():
        first = float(stage.loss(started(stage).eval(), batch, 0)["loss"])
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True))
    with torch.no_grad():
        last = float(stage.loss(network, batch, 0)["loss"])
    assert log["step"] == 25 and last < 0.6 * first


def test_activations_that_are_computed_again_give_the_same_gradient(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    batch, module, kept = stage.load(stage.plan(np.random.default_rng(0), 2)), started(stage).train(), []
    for again in (False, True):
        if again:
            stage.checkpointed(module)
        module.zero_grad()
        stage.loss(module, batch, 0)["loss"].backward()
        kept.append([weight.grad.clone() for weight in module.parameters()])
    for plain, repeated in zip(*kept, strict=True):
        torch.testing.assert_close(repeated, plain)
    assert any(getattr(part, "gradient_checkpointing", False) for part in module.modules())


def test_a_resumed_run_ends_as_an_uninterrupted_one(folder, figures, tmp_path):
    def run(name, **settings):
        return train(stage_of(folder, figures, tmp_path / name, steps=4, **settings), tmp_path / name, 0,
                     Accelerator(cpu=True))

    whole, _ = run("a")
    with pytest.raises(Stopped):
        run("b", minutes=1e-6)
    resumed, log = run("b")
    assert log["step"] == 4 and same(whole.state_dict(), resumed.state_dict())


# -- the field


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    """File of a small estimator that sees joints everywhere."""
    config = EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    torch.manual_seed(0)
    network = HigherHRNet(config)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for layer in network.final_layers:
        layer.bias.data.add_(0.3)
    path = tmp_path_factory.mktemp("estimator") / "estimator.safetensors"
    save_model(path, {"estimator": network}, to_dict(config), dtype=torch.float32)
    return path


@torch.no_grad()
@pytest.mark.parametrize("space", ["features", "heatmaps"])
def test_the_field_shifts_the_prediction_where_the_pose_is_told(folder, figures, tmp_path, estimator, space):
    guided = replace(PRESETS["sd21"], field=replace(PRESETS["sd21"].field, space=space))
    stage = prepared(folder, figures, tmp_path, guided, estimator=str(estimator), field_limit=0.5)
    plain = prepared(folder, figures, tmp_path)
    module = started(stage).eval()
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    for drop, differs in ((False, True), (True, False)):
        told = {**batch, "drop": torch.full((3,), drop)}
        on, off = stage.loss(module, told, 0), plain.loss(module, told, 0)
        assert (abs(float(on["loss"] - off["loss"])) > 1e-4) == differs
        assert on["field"] > 0 and "field" not in off


def test_the_field_without_an_estimator_is_refused(folder, figures, tmp_path):
    with pytest.raises(InputError, match=r"field.training = 1: .*reposesd.estimator.*model.field.training=0"):
        stage_of(folder, figures, tmp_path, PRESETS["sd21"])


# -- what comes out


def test_validation_and_sheet(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    module = started(stage).eval()
    with torch.no_grad():
        values, sheet = stage.validate(module), stage.sheet(module)
    assert values["mse"] == pytest.approx(np.mean([values[f"mse_{level}"] for level in (50, 300, 600, 900)]))
    assert values["without_pose"] == pytest.approx(values["mse"], rel=1e-5), "at step 0 the pose has no influence"
    assert sheet.width > 3 * 2 * WIDTH and sheet.height > 3 * 2 * HEIGHT


def test_the_result_is_read_by_the_package_and_is_a_start_again(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    network, _ = train(stage, tmp_path, 0, Accelerator(cpu=True))
    path = tmp_path / "result.safetensors"
    stage.save(network, path, {"notes": "two steps"})
    config = reposesd_config(path)
    assert config.schedule.prediction == "v_prediction" and (config.height, config.width) == (HEIGHT, WIDTH)
    for loaded, kept in ((load_reposesd(path), network),
                         (load_autoencoder(path, config.autoencoder), stage.autoencoder)):
        assert all(torch.equal(value, kept.state_dict()[key].half().float())
                   for key, value in loaded.state_dict().items())
    again = StableDiffusion(path, PRESET, str(folder / "tokenizer"))
    assert again.config == config
    text, ids = again.text_encoder(), stage.text.ids(["red hat"])
    torch.testing.assert_close(text(ids), stage.text(ids), rtol=1e-2, atol=1e-2)
    more = started(stage_of(path, figures, tmp_path, tokenizer=str(folder / "tokenizer")))
    assert same(more.state_dict(), load_reposesd(path).state_dict())
    fresh = stage.build()
    stage.start_from(fresh, path)
    assert same(fresh.state_dict(), more.state_dict())


# -- what users get wrong


def test_what_is_not_there_is_named(folder, figures, tmp_path):
    with pytest.raises(InputError, match=r"reposesd.start = '': give a local Stable Diffusion 2.1"):
        stage_of("", figures, tmp_path)
    with pytest.raises(InputError, match=r"unet/config.json cannot be read"):
        stage_of(tmp_path, figures, tmp_path)
    (tmp_path / "some.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"some.safetensors: a checkpoint file holds no tokenizer"):
        stage_of(tmp_path / "some.safetensors", figures, tmp_path)
    with pytest.raises(InputError, match="no CLIP tokenizer in"):
        stage_of(folder, figures, tmp_path, tokenizer=str(tmp_path)).prepare(True)


@pytest.mark.parametrize(("change", "message"), [({"use_linear_projection": False}, "linear projections: False"),
                                                 ({"in_channels": 9}, "9 input channels"),
                                                 ({"attention_head_dim": [4, 8]}, "attention heads of 16 channels"),
                                                 ({"attention_head_dim": 2}, r"attention heads \[2, 2\]")])
def test_another_version_is_refused(folder, figures, tmp_path, change, message):
    other = tmp_path / "other"
    other.mkdir()
    for part in folder.iterdir():
        (other / part.name).symlink_to(part)
    (other / "unet").unlink()
    (other / "unet").mkdir()
    known = json.loads((folder / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**known, **change}))
    with pytest.raises(InputError, match=message):
        stage_of(other, figures, tmp_path)
