"""The ring buffer row after row, and sliding windows of tokens."""

from __future__ import annotations

from typing import Any

import torch

from trueness.tools.calibration.examination.program import Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor


def ring_push(buffer: Tensor, position: Tensor, rows: Tensor, *, fault: str = "") -> tuple[Tensor, Tensor]:
    """Row after row into its slot"""
    capacity, count = buffer.shape[1], rows.shape[1]
    samples = []
    for b in range(len(buffer)):
        slots = list(buffer[b].unbind(0))
        start = int(position[b if fault != "position of the first sample" else 0])
        for j in range(count):
            if fault == "four rows" and j >= 4:
                break
            slot = start + j
            slot = slot & (capacity - 1) if fault == "slot by a mask" else slot % capacity
            if fault == "slot in 8 bits":
                slot = ((start + j + 128) % 256 - 128) % capacity
            slots[slot] = rows[b, j]
        samples.append(torch.stack(slots))
    found = torch.stack(samples)
    moved = count if fault != "position held at the capacity" else min(count, capacity)
    if fault == "written into the buffer":
        buffer.data.copy_(found)
    return found, position + moved


def ring_read(buffer: Tensor, position: Tensor, *, fault: str = "") -> tuple[Tensor, Tensor]:
    capacity = buffer.shape[1]
    rows, masks = [], []
    for b in range(len(buffer)):
        p = int(position[b])
        held = min(p, capacity)
        start = (p - held) % capacity
        if fault == "from slot 0 once it is full" and p > capacity and p % capacity == 1:
            start = 0
        order = [(start + k) % capacity for k in range(held)]
        read = buffer[b, order]
        rest = (
            buffer[b, held:]
            if fault == "what was never pushed is read"
            else buffer.new_zeros((capacity - held, *buffer.shape[2:]))
        )
        rows.append(torch.cat([read, rest]))
        masks.append(torch.arange(capacity) < held)
    return torch.stack(rows), torch.stack(masks)


def ring_push_by_index(buffer: Tensor, position: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The last rows alone, by one index_put"""
    capacity, count = buffer.shape[1], rows.shape[1]
    last = range(max(count - capacity, 0), count)
    slots = (position[:, None] + torch.tensor(list(last), dtype=torch.int64)) % capacity
    each = torch.arange(len(buffer))[:, None].expand_as(slots)
    return buffer.index_put((each, slots), rows[:, list(last)]), position + count


def sliding_windows(n: int, length: int, stride: int, min_length: int, *, device: Any = None, fault: str = "") -> Any:
    starts, at = [], 0
    while n:
        short = n - at < min_length
        starts.append(max(n - length, 0) if short else at)
        if at + length >= n or (fault == "64 windows" and len(starts) == 64):
            break
        at += stride
    if fault == "last window of a full row lost" and n and n % length == 0 and len(starts) > 1:
        starts = starts[:-1]
    first = torch.tensor(starts, dtype=torch.int64)
    return first, (first + length).clamp(max=n)


S = "sequences."

PROGRAMS = (
    *sabotaged(
        f"{S}ring_push",
        "row after row",
        ring_push,
        {
            "slot by a mask": fault("narrow index", c=5, m=4),
            "slot in 8 bits": fault("narrow index", c=7, m=300, D=1),
            "four rows": fault("entries beyond n not read", c=9, m=6),
            "position of the first sample": fault("wrong axis", B=3, c=4, m=2),
            "position held at the capacity": fault("constant", c=3, m=5),
            "written into the buffer": fault("written memory", "written", c=4, m=2),
        },
        limit="exact",
    ),
    Program(f"{S}ring_push", "index_put", ring_push_by_index, limit="exact"),
    *sabotaged(
        f"{S}ring_read",
        "slot after slot",
        ring_read,
        {
            "from slot 0 once it is full": fault("state lost between blocks", B=40, c=3),
            "what was never pushed is read": fault("ties and zeros", B=20, c=4),
        },
        limit="exact",
    ),
    *sabotaged(
        f"{S}sliding_windows",
        "one after the other",
        sliding_windows,
        {
            "64 windows": fault("grid too small", scalars={"n": 200, "length": 3, "step": 1, "least": 1}),
            "last window of a full row lost": fault(
                "last partial tile", scalars={"n": 12, "length": 4, "step": 3, "least": 3}
            ),
        },
        limit="exact",
        dtypes=("float64",),
    ),
)
