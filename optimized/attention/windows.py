"""Windows of a grid of tokens, and the relative positions inside one."""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_count
from trueness.optimized.attention.validation import require_grid, require_table

Tensor = torch.Tensor


def window_partition(x: Tensor, window: int) -> Tensor:
    """X_{(b n_H + r) n_W + c, i w + j} = x_{b, r w + i, c w + j}:  (B, H, W, C) → (B n_H n_W, w², C)

    x        x  (B, H, W, C)        tokens of a grid, any dtype
    window   w  int                 side of a window, divides H and W
    returns  X  (B n_H n_W, w², C)  a copy: images first, then window rows, then window columns; row-major inside
    raises   ValueError if x has not four axes, or window does not divide H and W
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x was {shape}; it must be a tensor of shape (B, H, W, C).")
    require_grid(window, x.shape[1], x.shape[2])
    return _cut(x, window)


def _cut(x: Tensor, window: int) -> Tensor:
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    grid: Tensor = x.unflatten(1, (rows, window)).unflatten(3, (columns, window)).transpose(2, 3)
    copy = grid.clone(memory_format=torch.contiguous_format)
    return copy.view(batch * rows * columns, window * window, channels)


def window_unpartition(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """x = the inverse of window_partition:  (B n_H n_W, w², C) → (B, H, W, C)

    windows  X  (B n_H n_W, w², C)  images first, then window rows, then window columns; any dtype
    window   w  int                 side of a window
    height   H  int                 rows of the grid, a multiple of w
    width    W  int                 columns of the grid, a multiple of w
    returns  x  (B, H, W, C)        a copy
    raises   ValueError if window does not divide height and width, or windows are not whole images
    """
    require_grid(window, height, width)
    count = (height // window) * (width // window)
    if not isinstance(windows, Tensor) or windows.ndim != 3 or windows.shape[1] != window * window:
        shape = tuple(windows.shape) if isinstance(windows, Tensor) else type(windows).__name__
        raise ValueError(f"windows was {shape}; it must be a tensor of shape (B n_H n_W, {window * window}, C).")
    if windows.shape[0] % count:
        raise ValueError(f"windows had {windows.shape[0]} rows; it must have a multiple of n_H n_W = {count}.")
    return _put_back(windows, window, height, width)


def _put_back(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    rows, columns, channels = height // window, width // window, windows.shape[-1]
    batch = windows.shape[0] // (rows * columns)
    grid = windows.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return grid.clone(memory_format=torch.contiguous_format).view(batch, height, width, channels)


def relative_position_index(window: int, *, device: torch.device | str | None = None) -> Tensor:
    """r(i, j) = (y_i − y_j + w − 1)(2w − 1) + (x_i − x_j + w − 1)        (Liu et al. 2021 §3.2)

    window   w  int       side of a window, at least 1
    device                where the table is made
    returns  r  (w², w²)  int64, every number from 0 to (2w − 1)² − 1
    raises   ValueError if window is not an integer of at least 1
    """
    require_count(window, "window")
    at = torch.arange(window * window, device=device)
    y, x = at // window, at % window
    return (y[:, None] - y + (window - 1)) * (2 * window - 1) + (x[:, None] - x + (window - 1))


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """B_hij = T_{r(i, j), h}        (Liu et al. 2021 eq. 4)

    table    T  ((2w − 1)², heads)  one number per displacement and head, any floating dtype
    window   w  int                 side of a window
    returns  B  (heads, w², w²)     dtype of table
    raises   ValueError if table has not (2w − 1)² rows
    """
    require_count(window, "window")
    require_table(table, window)
    index = relative_position_index(window, device=table.device)
    rows = upcast(table)[index]  # the backward adds up to w² numbers of each
    return rows.permute(2, 0, 1).contiguous().to(table.dtype)
