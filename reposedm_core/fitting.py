"""Do weights fit a network, and are they sound? Memory comes last: a network is first made on `meta`, without any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .errors import InputError, shortened

Network = TypeVar("Network", bound=nn.Module)


def check_fit(
    network: nn.Module, state: Mapping[str, Tensor], what: str, names: Mapping[str, str] | None = None
) -> None:
    """Raise an `InputError` unless `state` has exactly the network's weights, in their shapes; looks at no number.

    Args:
        network: may be on the device `meta`.
        what: names file and part.
        names: what the file calls the weights, where it is not what the network does.
    """
    own, names = network.state_dict(), names or {}

    def said(keys: list[str], note: Callable[[str], str] = lambda key: "") -> list[str]:
        return [shortened(names.get(key, key)) + note(key) for key in sorted(keys)]

    both = [key for key in own if key in state]
    other = said(
        [key for key in both if state[key].shape != own[key].shape],
        lambda key: f": file {tuple(state[key].shape)}, network {tuple(own[key].shape)}",
    )
    # Whole numbers in place of floating ones would be taken as they are: bits of weights read as counts.
    kinds = said(
        [key for key in both if own[key].is_floating_point() and not state[key].is_floating_point()],
        lambda key: f": {str(state[key].dtype).removeprefix('torch.')}",
    )
    problems = [
        f"{label}: {', '.join(keys[:5])}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        for label, keys in (
            ("missing", said([key for key in own if key not in state])),
            ("unexpected", said([key for key in state if key not in own])),
            ("of another shape", other),
            ("not stored as floating numbers", kinds),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"{what} does not fit its network; {'; '.join(problems)}. Download it again, or choose a file "
            "of that network."
        )


def check_finite(state: Mapping[str, Tensor], what: str, names: Mapping[str, str] | None = None) -> None:
    """Raise an `InputError` that names the first tensor with NaN or infinity in it; reads every number once."""
    for key, value in state.items():
        if not value.is_floating_point() or not value.numel():
            continue
        try:
            ends = torch.stack(torch.aminmax(value))  # both are NaN where one number is; no memory, and the fastest
        except RuntimeError:  # of types as small as a byte there is no such operation
            ends = torch.stack(torch.aminmax(value.float()))
        if not ends.float().isfinite().all():
            raise InputError(
                f"{what}: {shortened((names or {}).get(key, key))} holds NaN or infinity, so that the "
                "network would give nothing; the file is damaged: download it again, or export it anew."
            )


def load_into(
    module: nn.Module, state: Mapping[str, Tensor], what: str, names: Mapping[str, str] | None = None
) -> None:
    """Strict `load_state_dict` of weights that `check_fit` and `check_finite` find sound; arguments as there."""
    check_fit(module, state, what, names)
    check_finite(state, what, names)
    module.load_state_dict(state)


def is_plain(value: Tensor) -> bool:
    """Is it all there: dense, not quantised, and each of its numbers, but for a few, in memory of its own?"""
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.nbytes <= max(value.untyped_storage().nbytes(), 2**20)


def filled(
    build: Callable[[], Network], state: Mapping[str, Tensor], what: str, names: Mapping[str, str] | None = None
) -> Network:
    """The network of `build` with these weights, on the CPU in eval mode, without gradients.

    It is made on `meta` first and costs no memory until the weights are known to fit; no random numbers are drawn.

    Args:
        build: makes it, whatever the default device. It imports under `torch.device("cpu")` what it imports itself:
            libraries keep tensors that they make then.
        state, what, names: see `check_fit`.

    Raises:
        InputError: what `build` and `load_into` raise.
    """
    with torch.device("meta"):
        network = build()
    check_fit(network, state, what, names)
    check_finite(state, what, names)
    # What no file holds must be computed, not left as the memory was.
    computed = {name for name, _ in network.named_buffers()} - set(network.state_dict())
    network = build() if computed else network.to_empty(device="cpu")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
