"""The texts of RePoseSD: Stable Diffusion's frozen text encoder with its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into
from reposedm_core.errors import InputError

# Captions are tokenised in the loader's workers, whose fork the tokenizer's threads would not survive.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class TextEncoder(nn.Module):
    """transformers' CLIPTextModel and the tokenizer of its folder, frozen.

    Args:
        tokenizer: transformers' CLIPTokenizer.
        network: CLIPTextModel; of Stable Diffusion 2.1 it has all layers but the last, so that its output is the
            hidden states the U-Net was trained on.
    """

    def __init__(self, tokenizer, network: nn.Module):
        super().__init__()
        self.tokenizer, self.network = tokenizer, network.eval().requires_grad_(False)
        config: Any = network.config
        self.words: int = config.max_position_embeddings
        self.dim: int = config.hidden_size

    def ids(self, captions: list[str]) -> Tensor:
        """Token numbers (B, n) int64, cut and filled up to the n = `words` that the network has positions for (77)."""
        return self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.words, return_tensors="pt"
        ).input_ids

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (B, n, D) of token numbers (B, n)."""
        return self.network(ids, return_dict=True).last_hidden_state


def load_tokenizer(folder: str | Path):
    """CLIP's tokenizer of a folder: vocab.json and merges.txt, or tokenizer.json.

    Raises:
        InputError: there is none, or it is damaged.
    """
    from transformers import CLIPTokenizer

    there = all((Path(folder) / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not there and not (Path(folder) / "tokenizer.json").is_file():  # transformers would make an empty one
        raise InputError(
            f"reposesd: no CLIP tokenizer in {folder}; give a folder with vocab.json and merges.txt as "
            "reposesd.tokenizer."
        )
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"reposesd: the CLIP tokenizer in {folder} cannot be read ({str(error).splitlines()[0]}); put "
            "its files there again."
        ) from error


def build_text_encoder(
    weights: Mapping[str, Tensor], config: dict[str, Any] | None, tokenizer: str | Path
) -> TextEncoder:
    """A `TextEncoder` in float32.

    Args:
        weights: in transformers' names, with or without their old prefix `text_model.`.
        config: what its config.json says; None: OpenCLIP's sizes are read off the weights, 64 channels a head as all of
            its text encoders have.
        tokenizer: folder of it.

    Raises:
        InputError: weights that do not fit, or no tokenizer.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    own = {
        key.removeprefix("text_model."): value.float()
        for key, value in weights.items()
        if value.is_floating_point() and "text_projection" not in key
    }
    if config is not None:
        sizes = CLIPTextConfig.from_dict(config)
    else:
        words, dim = own["embeddings.token_embedding.weight"].shape
        sizes = CLIPTextConfig(
            vocab_size=words,
            hidden_size=dim,
            intermediate_size=len(own["encoder.layers.0.mlp.fc1.bias"]),
            num_hidden_layers=1 + max(int(key.split(".")[2]) for key in own if key.startswith("encoder.layers.")),
            num_attention_heads=max(1, dim // 64),
            hidden_act="gelu",
            max_position_embeddings=len(own["embeddings.position_embedding.weight"]),
        )
    network = CLIPTextModel(sizes)
    prefix = "text_model." if any(key.startswith("text_model.") for key in network.state_dict()) else ""
    load_into(network, {prefix + key: value for key, value in own.items()}, "reposesd.start: text encoder")
    return TextEncoder(load_tokenizer(tokenizer), network)
