"""Which path a call may take: what autograd, a transform or a trace of it would miss."""

from __future__ import annotations

import torch


def under_functorch() -> bool:
    """Whether a transform of functorch (vmap, grad, jvp) is at work."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def can_write_in_place(tensor: torch.Tensor) -> bool:
    """Whether values may be read and written in place: on the CPU, no gradient wanted, no transform or trace."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and not (torch.is_grad_enabled() and tensor.requires_grad)
        and not under_functorch()
        and torch.autograd.forward_ad._current_level < 0
    )
