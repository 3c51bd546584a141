"""Pose Interaction Field Guidance: bend the sampling of any model towards a pose (section 3.3-3.4)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy_api.latest import io

from ..reposedm_core import PRESETS, InputError
from ..reposedm_core.config import SPACES, shared_size
from ..reposedm_core.field import PoseInteractionField, chosen_joints, chosen_people
from ..reposedm_core.pose import Pose
from ..reposedm_core.presets import SHIPPED_PRESET
from .host.decoding import DECODERS, ESTIMATOR_BYTES, Decoder, decoder
from .host.field_presets import CUSTOM, FROM_MODEL, STOCK, FieldPreset, preset_of
from .host.field_sampling import FieldNetworks, Guidance, Settings, chunk_size
from .host.inputs import check_span
from .host.patchers import differentiable, own_copy
from .host.poses import show_text, target_poses
from .host.sockets import FIELD, EstimatorSocket, LoadedEstimator, PoseKeypoint

DEFAULT = PRESETS[SHIPPED_PRESET].field


class PoseInteractionFieldGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMPoseFieldGuidance",
            display_name="Pose Interaction Field Guidance",
            category="RePoseDM",
            description="Pushes every sampling step towards the target pose, by the gradient of how far the pose in "
            "the picture is from it. Works on any picture model, not on RePoseDM alone. Costs a decoding and its "
            "gradient per step.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["gradient guidance", "pose guidance", "pose field", "pose control", "controlnet pose"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide: RePoseDM, or any other that makes pictures."),
                io.Vae.Input("vae", tooltip="The VAE of that model."),
                EstimatorSocket.Input("pose_estimator", tooltip="From RePoseDM Loader or Pose Estimator Loader."),
                PoseKeypoint.Input(
                    "pose",
                    tooltip="The pose to reach. One frame serves all pictures of a batch, or give one per picture.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="How strongly the picture is pushed towards the pose. With a preset 1 is what it says, 2 "
                    "twice that; with custom it is the weight of the gradient itself. A step changes the latent by "
                    "the limit at most; beyond that, more changes little. 0 is exactly the unguided model.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=DEFAULT.start,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Where in the sampling guidance begins; 0 is the first step, which knows little "
                    "of the pose yet.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=DEFAULT.end,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Where in the sampling guidance ends; 1 is after the last step, in which too "
                    "much strength leaves traces. Sooner is quicker.",
                ),
                io.Combo.Input(
                    "space",
                    options=list(SPACES),
                    default=DEFAULT.space,
                    advanced=True,
                    tooltip="What is compared: heatmaps of the joints with those of the pose, or (the "
                    "paper's) features of the picture with those of the drawn skeleton.",
                ),
                io.Float.Input(
                    "limit",
                    default=DEFAULT.limit,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How much of its own size a step may change the picture at most. More moves the "
                    "pose further and spoils the picture sooner; 0 is no bound.",
                ),
                io.Boolean.Input(
                    "normalise",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Strength becomes the share of the distance to the pose that a step is to "
                    "remove (0.1 is a tenth, less where little noise is left), whatever cfg is: the same "
                    "on every model. Off, it weighs the bare gradient, whose size varies a million-fold between "
                    "models; RePoseDM and RePoseSD files multiply that by cfg.",
                ),
                io.Int.Input(
                    "every_nth_step",
                    default=1,
                    min=1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="Guide only one of so many steps, counted back from the last that is guided: 2 halves "
                    "the cost. Times what a file says under the preset from the model.",
                ),
                io.Float.Input(
                    "mask_threshold",
                    default=0.1,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Compared is only where the heat maps of all joints add up to more than this "
                    "(W_h of eq. 11). More keeps to the joints, 0 takes in the whole picture.",
                ),
                io.String.Input(
                    "joints",
                    default="all",
                    optional=True,
                    tooltip="What is matched: all, or joints and groups separated by commas: head, body, "
                    "arms, legs, hands, feet, left, wrists, left knee; -head is all but the head.",
                ),
                io.String.Input(
                    "people",
                    default="0",
                    optional=True,
                    tooltip="Who of a frame is matched, counted from 0: 0 is the first, 0, 2 two of them, "
                    "all everybody. Estimators for one person see several badly.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=DECODERS[0],
                    optional=True,
                    tooltip="What makes the picture that is judged: the model's VAE, or taesd, its tiny one "
                    "from models/vae_approx: many times quicker, less memory, a little coarser.",
                ),
                io.Float.Input(
                    "decode_size",
                    default=1.0,
                    min=0.125,
                    max=1.0,
                    step=0.125,
                    optional=True,
                    advanced=True,
                    tooltip="Size of that picture, as a share of the full one: 0.5 costs about a quarter. Times what "
                    "a file says under the preset from the model. "
                    "Estimators see pictures of about 512 pixels, so that large ones lose nothing.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[FROM_MODEL, STOCK, CUSTOM],
                    default=FROM_MODEL,
                    optional=True,
                    tooltip="from the model: what a RePoseDM or RePoseSD file says. The second is for all others, by "
                    "the size of the gradient; tried on models of random weights only. custom: start_percent, "
                    "end_percent, space, limit and normalise count (advanced inputs), and strength is the bare weight.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The same model, guided.")],
        )

    @classmethod
    def validate_inputs(cls, joints: str | None = None) -> bool | str:
        # ComfyUI blames every input that this takes: `people` beside it would be blamed for a typo in `joints`
        try:
            joints is None or chosen_joints(joints)  # None: another node supplies it
        except InputError as error:
            return str(error).partition(": ")[2]  # ComfyUI puts the input's name in front itself
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        pose_estimator: LoadedEstimator,
        pose: Any,
        strength: float,
        start_percent: float,
        end_percent: float,
        space: str,
        limit: float = DEFAULT.limit,
        normalise: bool = False,
        every_nth_step: int = 1,
        mask_threshold: float = 0.1,
        joints: str = "all",
        people: str = "0",
        decoder: str = DECODERS[0],
        decode_size: float = 1.0,
        preset: str = CUSTOM,  # what older graphs have
    ) -> io.NodeOutput:
        poses = target_poses(pose)
        chosen = FieldPreset(1.0, start_percent, end_percent, space, limit, normalise)
        if preset != CUSTOM:
            chosen, note = preset_of(preset, model)
            show_text(cls, note)
            if note:
                logging.warning("Pose Interaction Field Guidance: %s", note)
        check_span(chosen.start, chosen.end)
        if strength == 0 or chosen.start == chosen.end:
            return io.NodeOutput(model)
        return io.NodeOutput(
            guided(
                model,
                vae,
                pose_estimator,
                poses,
                decoder,
                chosen.space,
                mask_threshold,
                joints,
                Settings(
                    strength,
                    chosen.limit,
                    chosen.normalise,
                    every_nth_step * chosen.every,
                    decode_size * chosen.share,
                    chosen_people(people),
                    chosen.strength,
                    chosen.update,
                ),
                (chosen.start, chosen.end),
                chosen.mask,
                chosen.share,
            )
        )


def guided(
    model: Any,
    vae: Any,
    estimator: LoadedEstimator,
    poses: list[Pose],
    kind: str,
    space: str,
    threshold: float,
    joints: str,
    settings: Settings,
    window: tuple[float, float],
    mask: str = "union",
    compared: float = 1.0,
) -> Any:
    """A clone of `model` with the guidance behind all that is there already; its networks come with the model.

    `compared` is `FieldConfig.size`: the estimator is shown pictures of that share of its size, as in core.
    """
    decoding = decoder(kind, vae, model)
    field = PoseInteractionField(own_copy(estimator.patcher), space, threshold, mask, joints=chosen_joints(joints))
    networks = FieldNetworks(field, decoding.network)
    result = model.clone()
    others = result.get_additional_models_with_key(FIELD)  # of a guidance before this one
    result.set_additional_models(FIELD, [*others, differentiable(networks)])
    native = estimator.height, estimator.width
    if not estimator.fixed:
        native = shared_size(native, compared, max(field.estimator.config.strides))
    Guidance(networks, decoding, poses, native, settings, window).install(result)
    rooms = result.get_wrappers(WrappersMP.PREPARE_SAMPLING, FIELD)
    guidances = (*(each for room in rooms for each in room.guidances), (decoding, native, settings.share))
    result.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, FIELD)
    result.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, FIELD, MemoryReserve(guidances))
    return result


@dataclass(frozen=True)
class MemoryReserve:
    """Makes ComfyUI leave memory for a guided step beside the model, whose weights stay in main memory else.

    The host knows the memory of so many pictures of the model, so it gets the largest of `guidances` as that: for
    each the decoder, the estimator's size and the share of the size that is decoded.
    """

    guidances: tuple[tuple[Decoder, tuple[int, int], float], ...]

    def __call__(self, executor: WrapperExecutor, model: Any, noise_shape: list[int], *args: Any, **kwargs: Any) -> Any:
        """Called around the host's preparation of a sampling."""
        if len(noise_shape) in (4, 5):
            needed = max(self.needed(noise_shape, *each) for each in self.guidances)
            pictures = math.ceil(needed / model.model.memory_required([1, *noise_shape[1:]]))
            noise_shape = [max(noise_shape[0], pictures), *noise_shape[1:]]
        return executor(model, noise_shape, *args, **kwargs)

    @staticmethod
    def needed(shape: list[int], decoding: Decoder, native: tuple[int, int], share: float) -> float:
        """Bytes for latents of that shape."""
        count, channels, *_, height, width = shape
        count = min(count, chunk_size((height * decoding.seen, width * decoding.seen), native, share))
        decoded = [count, channels, max(1, round(height * share)), max(1, round(width * share))]
        return decoding.memory(decoded) + count * ESTIMATOR_BYTES * math.prod(native)
