"""CLIP score against the plain cosine of the features, and FID's Inception against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import inception_v3

from reposedm_core.errors import InputError
from training.metrics import backbones
from training.metrics.clip import ClipScore
from training.metrics.fid_inception import FidInception
from training.train_tiny import write_clip

CAPTIONS = ["red hat", "a dancer in a blue dress who jumps", "x"]


def test_clip_score_is_the_cosine_of_the_features(tmp_path):
    from transformers import CLIPModel, CLIPProcessor

    folder = tmp_path / "clip-small"
    write_clip(folder)
    pictures = torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    score = ClipScore(folder)
    found = score(pictures, CAPTIONS)
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    levels = ((pictures + 1) * 127.5).round().to(torch.uint8)
    for n, caption in enumerate(CAPTIONS):
        given = processor(text=[caption], images=[levels[n]], return_tensors="pt", truncation=True)
        with torch.no_grad():
            out = model(**given)
        cosine = F.cosine_similarity(out.image_embeds, out.text_embeds).item()
        assert found[n] == pytest.approx(max(0, 100 * cosine), abs=1e-3)
    assert score.name == "clip-small" and found.max() > 0 and len(np.unique(found)) > 1
    again = score(pictures.flip(0), CAPTIONS[::-1])
    assert again[::-1] == pytest.approx(found, abs=1e-5), "no picture's score depends on those before it"


def test_a_clip_that_is_not_there_or_damaged_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json.*Nothing is downloaded"):
        ClipScore(tmp_path)
    write_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="no CLIP can be read"):
        ClipScore(tmp_path / "clip")


def test_fid_s_inception(tmp_path):
    torch.manual_seed(0)
    plain = inception_v3(weights=None, aux_logits=False, init_weights=False, num_classes=1008).eval()
    for name, buffer in plain.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.01, 0.1)  # else nothing is left of the signal after so many layers
    torch.save(plain.state_dict(), tmp_path / backbones.FILES["fid"])
    network = FidInception(tmp_path)
    levels = torch.randint(0, 256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(levels / 127.5 - 1)
        x = (levels - 128) / 128
        for layer, padding, stride in (
            (plain.Conv2d_1a_3x3, 0, 2),
            (plain.Conv2d_2a_3x3, 0, 1),
            (plain.Conv2d_2b_3x3, 1, 1),
        ):
            x = F.conv2d(x, layer.conv.weight, None, stride, padding)
            norm = layer.bn
            x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3))
        assert found.shape == (1, 2112)
        torch.testing.assert_close(found[:, network.fid], F.max_pool2d(x, 3, 2).mean((2, 3)))
        # A constant stays one in the pooling branch, at the border too; the last block takes the largest.
        block, last = network.rest[3], network.rest[-1]
        for each, channels, pooled in ((block, 192, torch.ones(1, 192, 8, 8)), (last, 2048, None)):
            given = torch.ones(1, channels, 8, 8) if pooled is not None else torch.rand(1, channels, 8, 8)
            pooled = F.max_pool2d(given, 3, 1, 1) if pooled is None else pooled
            torch.testing.assert_close(each._forward(given)[-1], each.branch_pool(pooled))
