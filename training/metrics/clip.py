"""CLIP score: how well a picture fits its caption, by torchmetrics with a CLIP of a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from reposedm_core.errors import InputError
from reposedm_core.files import reason
from reposedm_core.images import to_uint8
from training.metrics.distribution import HERE

if TYPE_CHECKING:
    from transformers import CLIPModel


class ClipScore:
    """100 · cosine of a CLIP's picture and text features, never below 0 (torchmetrics' CLIPScore), picture by picture.

    Args:
        folder: of a CLIP as transformers saves it, such as openai/clip-vit-base-patch16; nothing is downloaded.

    Attributes:
        name: what tables call it, the folder's name.

    Raises:
        InputError: no such model there, or it cannot be read.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu"):
        from torchmetrics.multimodal.clip_score import CLIPScore
        from transformers import CLIPModel, CLIPProcessor

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"clip = {folder}: there is no config.json; give the folder of a CLIP as transformers saves it, with "
                "its weights, tokenizer and preprocessor_config.json. Nothing is downloaded."
            )
        try:
            found: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
            raise InputError(f"clip = {folder}: no CLIP can be read there ({reason(error)}); get it again.") from error
        loaded, missing = found
        if missing["missing_keys"]:
            raise InputError(f"clip = {folder}: weights are missing, {sorted(missing['missing_keys'])[0]} among them.")
        words = loaded.config.text_config.max_position_embeddings

        def prepare(**given: object) -> object:
            # torchmetrics would cut off the end mark with the words, at which CLIP reads the text's features
            cut = {"truncation": True, "max_length": words} if "text" in given else {}
            return processor(**given, **cut)

        self.name, self.device = folder.resolve().name, torch.device(device)
        features = _Features(loaded.eval().requires_grad_(False))

        def parts() -> Any:
            return features, prepare

        self.metric = CLIPScore(parts, **HERE).to(self.device)

    def __call__(self, pictures: Tensor, captions: list[str]) -> np.ndarray:
        """Scores (B,) float64, 0..100, of pictures (B, 3, H, W) in [-1, 1] and their captions.

        A caption that is longer than the model reads (77 tokens) is cut off.
        """
        scores = []
        for picture, caption in zip(to_uint8(pictures.to(self.device)), captions, strict=True):
            self.metric.reset()
            self.metric.update(picture, caption)
            scores.append(float(self.metric.compute()))
        return np.array(scores)


class _Features(nn.Module):
    """A CLIP whose features are tensors: since transformers 5 they come in an object, which torchmetrics cannot use."""

    def __init__(self, model: CLIPModel):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *given: Tensor) -> Tensor:
        return _tensor(self.model.get_image_features(*given))

    def get_text_features(self, *given: Tensor) -> Tensor:
        return _tensor(self.model.get_text_features(*given))


def _tensor(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output
