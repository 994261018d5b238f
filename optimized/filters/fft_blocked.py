"""The filter in frequency of one large plane, a block of its rows or columns at a time.

The half spectrum lies where the result will be: what happens along y is real, and so are the columns of f_x = 0 and ½
before it, which share one complex column. So it takes H × W/2 complex numbers, in the memory of H × W real ones, and
what is in memory beside the result is blocks. Where the result is of another format, or cannot be read as complex
numbers, the half spectrum has memory of its own.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.threads import parallel

BLOCK = 3 << 17  # bytes of a block: what one transform leaves is still in the cache for the next


def in_blocks(x: torch.Tensor, place: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, threads: int) -> None:
    """The filter of a plane (H, W) by gains (H,) and (kept,), into ``place``, which may be x itself."""
    (height, width), inner, kept = x.shape, rows.dtype, len(columns)
    stored = min(kept, (width + 1) // 2)  # complex columns; where all are kept of an even width, the first is two
    fits = place.dtype == inner and place.is_contiguous() and width % 2 == 0 and place.storage_offset() % 2 == 0
    parts = place.view(height, -1, 2)[:, :stored] if fits else torch.empty((height, stored, 2), dtype=inner)
    spectrum = torch.view_as_complex(parts)
    rows, columns = rows[:, None, None].repeat(1, 1, 2), columns[:, None].repeat(1, 2)  # of real and imaginary parts
    block = BLOCK // (2 * inner.itemsize)
    tall, wide = max(1, block // (width // 2 + 1)), min(max(1, block // height), stored)

    def there(start: int, stop: int) -> None:
        for top in range(start * tall, min(stop * tall, height), tall):
            into_columns(x[top : top + tall].to(inner), columns, parts[top : top + tall])

    def across(start: int, stop: int) -> None:
        apart = spectrum.new_empty((height, wide + 1))  # rows a power of two apart share a few lines of the cache
        for left in range(start * wide, min(stop * wide, stored), wide):
            some = spectrum[:, left : left + wide]
            turned = torch.fft.fft(apart[:, : some.shape[1]].copy_(some), dim=-2)
            torch.view_as_real(turned).mul_(rows)
            some.copy_(torch.fft.ifft(turned, dim=-2, norm="forward"))

    def back(start: int, stop: int) -> None:
        half = parts.new_zeros((min(tall, height), width // 2 + 1, 2))
        for top in range(start * tall, min(stop * tall, height), tall):
            of = slice(top, top + tall)
            place[of] = out_of_columns(parts[of], kept, half[: height - top], width)

    parallel(there, -(-height // tall), threads)
    parallel(across, -(-stored // wide), threads)
    parallel(back, -(-height // tall), threads)


def into_columns(x: torch.Tensor, columns: torch.Tensor, parts: torch.Tensor) -> None:
    """parts (h, stored, 2) of the spectrum ← gains · transform of rows (h, W)"""
    found, stored = torch.view_as_real(torch.fft.rfft(x)), parts.shape[1]
    torch.mul(found[:, :stored], columns[:stored], out=parts)
    if len(columns) > stored:
        parts[:, 0, 1] = found[:, -1, 0] * columns[-1, 0]


def out_of_columns(parts: torch.Tensor, kept: int, half: torch.Tensor, width: int) -> torch.Tensor:
    """Rows (h, W) of parts (h, stored, 2), laid out in ``half``, which is 0 from the kept columns on."""
    stored = parts.shape[1]
    half[:, :stored] = parts
    if kept > stored:
        half[:, -1, 0] = parts[:, 0, 1]
        half[:, 0, 1] = 0
    return torch.fft.irfft(torch.view_as_complex(half), n=width, norm="forward")
