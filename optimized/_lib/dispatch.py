"""Predicates that choose between in-place code, plain operations and CUDA kernels."""

from __future__ import annotations

import torch


def under_functorch() -> bool:
    """Whether a functorch transform (vmap, grad, jvp) is active."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def under_transform() -> bool:
    """Whether the call is traced by torch.compile, transformed by functorch, or in forward-mode differentiation."""
    return torch.compiler.is_compiling() or under_functorch() or torch.autograd.forward_ad._current_level >= 0


def needs_plain_ops(*values: object) -> bool:
    """Whether plain torch operations are needed: under a transform, or for a tensor subclass among ``values``."""
    plain = (torch.Tensor, torch.nn.Parameter)
    return under_transform() or any(type(t) not in plain for t in values if isinstance(t, torch.Tensor))


def can_write_in_place(tensor: torch.Tensor) -> bool:
    """Whether values may be read and written in place: a plain CPU tensor that needs no gradient, no transform."""
    return (
        not under_transform()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and not (torch.is_grad_enabled() and tensor.requires_grad)
    )


def cuda_supported(tensor: torch.Tensor) -> bool:
    """Whether a CUDA kernel that computes in float32 may take ``tensor``: on CUDA, not float64, no transform."""
    return (
        tensor.is_cuda
        and tensor.dtype != torch.float64
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not under_transform()
    )
