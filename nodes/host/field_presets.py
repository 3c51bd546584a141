"""How a model is guided best: what its file says, what suits stock models, or what the node's widgets say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...reposedm_core.config import FieldConfig

FROM_MODEL, STOCK, CUSTOM = "from the model", "Stable Diffusion · SDXL · flow models", "custom"
SAYS = "reposedm_field_config"
"""Attribute of a host's model: the `FieldConfig` in its file."""
UNSAID = (
    f"The file of this model says nothing of a pose field: the settings for {STOCK} are taken, which were tried on "
    "models of random weights only."
)


@dataclass(frozen=True)
class FieldPreset:
    """Widgets of Pose Interaction Field Guidance that go together; `strength` is what its strength 1 stands for.

    `every` and `share` are `FieldConfig.every` and `size`; the node's own widgets of cost multiply them.
    """

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    space: str = "heatmaps"
    limit: float = 0.1
    normalise: bool = False
    mask: str = "union"
    update: str = "eq15"
    every: int = 1
    share: float = 1.0


STOCK_FIELD = FieldPreset(strength=0.2, start=0.15, end=0.7, normalise=True)
"""By the size of the gradient, which varies a million-fold between models."""


def preset_of(kind: str, model: Any) -> tuple[FieldPreset, str]:
    """The settings of one of the presets, not `CUSTOM`, and a note on them, which may be empty.

    Args:
        model: a MODEL; a file whose field is off, as those that sample without it, is guided with strength 1.
    """
    said: FieldConfig | None = getattr(model.model, SAYS, None)
    if kind == STOCK or said is None:
        return STOCK_FIELD, "" if kind == STOCK else UNSAID
    return (
        FieldPreset(
            said.strength or 1.0,
            said.start,
            said.end,
            said.space,
            said.limit,
            mask=said.mask,
            update=said.update,
            every=said.every,
            share=said.size,
        ),
        "",
    )
