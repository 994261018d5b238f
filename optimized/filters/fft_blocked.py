"""The filter in frequency of one large plane, a block of its rows or columns at a time.

The half spectrum is stored in the output. The gains along y are real, and before the transform along y the columns of
f_x = 0 and f_x = ½ are real, so that they share one complex column: H × W/2 complex numbers fit in H × W real ones.
The only other memory is a few blocks. If the output has another format or layout, the half spectrum is allocated.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.threads import parallel

BLOCK = 3 << 17  # bytes of a block, small enough to stay in the cache between two transforms


def filter_in_blocks(
    x: torch.Tensor, out: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, threads: int
) -> None:
    """out ← the filter of a plane (H, W) by gains (H,) and (kept,); ``out`` may be x itself."""
    (height, width), inner, kept = x.shape, rows.dtype, len(columns)
    stored = min(kept, (width + 1) // 2)  # complex columns; f_x = ½, where it is kept, is stored in the first one
    fits = out.dtype == inner and out.is_contiguous() and width % 2 == 0 and out.storage_offset() % 2 == 0
    parts = out.view(height, -1, 2)[:, :stored] if fits else torch.empty((height, stored, 2), dtype=inner)
    spectrum = torch.view_as_complex(parts)
    rows, columns = rows[:, None, None].repeat(1, 1, 2), columns[:, None].repeat(1, 2)  # of real and imaginary parts
    size = BLOCK // (2 * inner.itemsize)
    tall, wide = max(1, size // (width // 2 + 1)), min(max(1, size // height), stored)

    def forward_rows(start: int, stop: int) -> None:
        for top in range(start * tall, min(stop * tall, height), tall):
            rows_to_columns(x[top : top + tall].to(inner), columns, parts[top : top + tall])

    def filter_columns(start: int, stop: int) -> None:
        block = spectrum.new_empty((height, wide + 1))  # an odd pitch avoids cache conflicts between rows
        for left in range(start * wide, min(stop * wide, stored), wide):
            some = spectrum[:, left : left + wide]
            transformed = torch.fft.fft(block[:, : some.shape[1]].copy_(some), dim=-2)
            torch.view_as_real(transformed).mul_(rows)
            some.copy_(torch.fft.ifft(transformed, dim=-2, norm="forward"))

    def inverse_rows(start: int, stop: int) -> None:
        half = parts.new_zeros((min(tall, height), width // 2 + 1, 2))
        for top in range(start * tall, min(stop * tall, height), tall):
            of = slice(top, top + tall)
            out[of] = columns_to_rows(parts[of], kept, half[: height - top], width)

    parallel(forward_rows, -(-height // tall), threads)
    parallel(filter_columns, -(-stored // wide), threads)
    parallel(inverse_rows, -(-height // tall), threads)


def rows_to_columns(x: torch.Tensor, columns: torch.Tensor, parts: torch.Tensor) -> None:
    """parts (h, stored, 2) ← gains times the spectrum of the rows (h, W)"""
    found, stored = torch.view_as_real(torch.fft.rfft(x)), parts.shape[1]
    torch.mul(found[:, :stored], columns[:stored], out=parts)
    if len(columns) > stored:
        parts[:, 0, 1] = found[:, -1, 0] * columns[-1, 0]


def columns_to_rows(parts: torch.Tensor, kept: int, half: torch.Tensor, width: int) -> torch.Tensor:
    """The rows (h, W) of the spectrum parts (h, stored, 2); ``half`` is a buffer whose unused columns are 0."""
    stored = parts.shape[1]
    half[:, :stored] = parts
    if kept > stored:
        half[:, -1, 0] = parts[:, 0, 1]
        half[:, 0, 1] = 0
    return torch.fft.irfft(torch.view_as_complex(half), n=width, norm="forward")
