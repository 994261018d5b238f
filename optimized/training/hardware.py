"""What a device can do, as rules on its properties: they are functions of numbers and need no device to be tried.

bfloat16 and TF32 are in hardware from compute capability 8.0, tensor cores for float16 from 7.0 (NVIDIA, CUDA C
Programming Guide, compute capabilities). torch.cuda.is_bf16_supported() is also true where bfloat16 is emulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Device", "device_properties", "has_bfloat16", "has_float16", "has_tf32", "needs_loss_scaling", "precision"]

GIB = 2.0**30
Capability = tuple[int, int]


@dataclass(frozen=True)
class Device:
    """What the rules look at.

    capability  compute capability (major, minor), or None for the CPU
    free        memory that is free now, GiB
    total       memory in all, GiB
    name        what the driver calls it
    """

    capability: Capability | None
    free: float
    total: float
    name: str = ""


def device_properties(device: torch.device | str | int | None = None) -> Device:
    """The properties of a CUDA device, of the current one by default; of the CPU where there is none.

    raises  ValueError for a device that is neither
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device if device is not None else default)
    if chosen.type == "cpu":
        return Device(None, *_host_memory(), "cpu")
    if chosen.type != "cuda":
        raise ValueError(f"device was {chosen}; it must be a CUDA device or the CPU.")
    free, total = torch.cuda.mem_get_info(chosen)
    name = torch.cuda.get_device_name(chosen)
    return Device(torch.cuda.get_device_capability(chosen), free / GIB, total / GIB, name)


def _host_memory() -> tuple[float, float]:
    """(available, total) of Linux in GiB; zeros where it cannot be read."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            pages = {line.split(":")[0]: int(line.split()[1]) for line in file if line.split()[1:]}
    except (OSError, ValueError):
        return 0.0, 0.0
    return pages.get("MemAvailable", 0) / 2**20, pages.get("MemTotal", 0) / 2**20


def require_capability(capability: Capability | None) -> Capability | None:
    if capability is None:
        return None
    if len(capability) != 2 or not all(isinstance(n, int) and n >= 0 for n in capability):
        raise ValueError(f"capability was {capability!r}; it must be (major, minor), or None for the CPU.")
    return capability


def has_bfloat16(capability: Capability | None) -> bool:
    """Whether bfloat16 is in hardware: compute capability ≥ 8.0. False for the CPU, where it saves memory, not time.

    raises  ValueError if capability is not two whole numbers or None
    """
    capability = require_capability(capability)
    return capability is not None and capability >= (8, 0)


def has_tf32(capability: Capability | None) -> bool:
    """Whether TF32 matrix products are in hardware: compute capability ≥ 8.0."""
    return has_bfloat16(capability)


def has_float16(capability: Capability | None) -> bool:
    """Whether float16 has tensor cores: compute capability ≥ 7.0. From 5.3 it exists, and is no faster."""
    capability = require_capability(capability)
    return capability is not None and capability >= (7, 0)


def precision(capability: Capability | None) -> torch.dtype:
    """The type to compute in: bfloat16 from 8.0, float16 from 7.0 (with loss scaling), else float32.

    capability  (major, minor), or None for the CPU
    returns     dtype; bfloat16 only where it is in hardware, whatever torch.cuda.is_bf16_supported() says
    raises      ValueError if capability is not two whole numbers or None
    """
    if has_bfloat16(capability):
        return torch.bfloat16
    return torch.float16 if has_float16(capability) else torch.float32


def needs_loss_scaling(dtype: torch.dtype) -> bool:
    """Whether gradients vanish in ``dtype`` unless the loss is scaled: float16, whose smallest number is 6·10⁻⁸."""
    return dtype == torch.float16
