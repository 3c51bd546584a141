"""Networks in ComfyUI's patchers."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

BYTES_A_PIXEL = 2048
"""Generous for the activations of aligner and estimator: 128 float32 channels at full resolution, four times."""


def host_layers(network: Network) -> Network:
    """Turn the plain layers of `network` into ComfyUI's classes of the same kind, in place.

    They compute the same; in addition the host can leave their weights in main memory, and an interruption takes
    effect between two layers.
    """
    classes: dict[type[nn.Module], Any] = {
        kind: getattr(comfy.ops.disable_weight_init, kind.__name__)
        for kind in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    }
    for layer in network.modules():
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]
    management.archive_model_dtypes(network)
    return network


def interruptible(network: nn.Module) -> nn.Module:
    """Let an interruption take effect before each layer of `network`, in place."""
    for layer in network.modules():
        layer.register_forward_pre_hook(lambda *_: management.throw_exception_if_processing_interrupted())
    return network


class WholePatcher(ModelPatcher):
    """Brings its network onto the device whole or not at all, however little memory the host has for it.

    For layers that are not the host's own: those left behind would meet tensors of another device. And for gradients:
    weights that the host streams through one buffer are gone when the way back comes to them.
    """

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> float:
        """See the host's `ModelPatcher.partially_load`; `extra_memory` bounds nothing."""
        return super().partially_load(device_to, 1e32, force_patch_weights)

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> float:
        """Frees nothing, upon which the host takes the whole network off the device."""
        return 0


def in_patcher(
    network: nn.Module,
    plain: bool = False,
    load_device: torch.device | None = None,
    offload_device: torch.device | None = None,
    whole: bool = False,
) -> ModelPatcher:
    """A patcher, so that ComfyUI decides when the network is on the device.

    Args:
        plain: never the host's kind that streams every weight on demand.
        whole: a `WholePatcher`, unless the host streams, which it does with its own layers alone.
    """
    load_device = load_device or management.get_torch_device()
    streams = not plain and comfy.model_patcher.CoreModelPatcher is not ModelPatcher
    if whole and (not streams or management.is_device_cpu(load_device)):
        kind = WholePatcher
    else:
        kind = comfy.model_patcher.CoreModelPatcher if streams else ModelPatcher
    return kind(network, load_device=load_device, offload_device=offload_device or management.unet_offload_device())


def own_copy(patcher: ModelPatcher) -> Any:
    """The network of a patcher again, with weights that gradients can pass through and that nobody else moves."""
    with torch.inference_mode(False):
        if getattr(patcher, "is_dynamic", bool)():  # its weights are not tensors of their own: read them again
            return patcher.clone(disable_dynamic=True).model
        # The network itself may be on the device just now; the copy comes there when the host brings it.
        return copy.deepcopy(patcher.model).to(patcher.offload_device)


def differentiable(network: nn.Module) -> ModelPatcher:
    """A patcher for a network from `own_copy`, which stays differentiable when the host moves it.

    ComfyUI moves weights under `torch.inference_mode()`. What it moved is made anew as normal tensors.
    """
    patcher = in_patcher(network, plain=True, whole=True)
    patcher.add_callback(CallbacksMP.ON_LOAD, lambda loaded, *_: leave_inference_mode(loaded.model))
    return patcher


def leave_inference_mode(network: nn.Module) -> None:
    """Replace the inference tensors among weights and buffers by normal ones, in place."""
    with torch.inference_mode(False):
        for layer in network.modules():
            for name, value in layer.named_parameters(recurse=False):
                if value.is_inference():
                    setattr(layer, name, nn.Parameter(value.clone(), requires_grad=False))
            for name, buffer in layer.named_buffers(recurse=False):
                if buffer.is_inference():
                    setattr(layer, name, buffer.clone())


def load(*patchers: ModelPatcher, pixels: int = 0, memory: float = 0) -> torch.device:
    """Bring networks onto their device, with room for the activations of `pixels` pixels or `memory` bytes.

    Returns:
        the device of the first.
    """
    memory = max(memory, pixels * BYTES_A_PIXEL)
    management.load_models_gpu(list(patchers), memory_required=memory, force_full_load=True)
    return patchers[0].load_device
