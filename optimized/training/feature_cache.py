"""A cache of computed features whose key is the content of the input.

    key = blake2b(bytes, shape, dtype, device, version of the feature map)

A sum of the elements does not change when rows are permuted. An address survives an edit in place and is given to the
next tensor when this one is freed. A sample of the elements does not see an edit elsewhere. The whole content does not
have these holes: two inputs share a key only if blake2b collides, which is negligible at 128 bits.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch

from trueness.optimized._lib.validation import require_count

__all__ = ["FeatureCache", "content_key"]

DIGEST = 16  # bytes


def content_key(*values: object) -> str:
    """A digest of tensors (every byte, shape, dtype, device) and of what ``repr`` says of anything else.

    values  tensors of any dtype, strides and device; numbers, strings and tuples of them
    raises  ValueError for a tensor that is not strided, and for one without data (meta)
    """
    digest = hashlib.blake2b(digest_size=DIGEST)
    for value in values:
        if isinstance(value, torch.Tensor):
            digest.update(repr((tuple(value.shape), str(value.dtype), str(value.device))).encode())
            digest.update(_bytes(value))
        else:
            digest.update(repr((type(value).__name__, value)).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _bytes(x: torch.Tensor) -> memoryview:
    if x.layout != torch.strided or x.is_quantized or x.device.type == "meta":
        raise ValueError(f"the tensor was {x.layout} on {x.device}; it must be strided and have data.")
    plain = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return memoryview(plain.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]


class FeatureCache:
    """``compute(x)``, remembered for inputs of the same content; the least recently used is forgotten first.

    compute  one tensor to one tensor, a function of its content alone (and of what ``version`` says)
    version  what else the features depend on, hashed with the input: the random weights of the map. A tensor or a tuple
             of tensors is hashed by content at every call, so that an edit of the weights is seen as well
    size     entries kept, ≥ 1
    raises   ValueError for a size below 1

    Returned features are a copy: to write to them does not change what the next caller gets. Where a gradient could
    flow (input or features require it) nothing is kept, and the result is fresh. ``hits`` and ``misses`` count.
    """

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor], version: object = "", size: int = 8) -> None:
        require_count(size, "size", 1)
        self.compute, self.version, self.size = compute, version, size
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"x was {type(x).__name__}; it must be a torch.Tensor.")
        if torch.is_grad_enabled() and x.requires_grad:
            return self.compute(x)
        version = self.version if isinstance(self.version, tuple) else (self.version,)
        key = content_key(x, *version)
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key].clone()
        self.misses += 1
        found = self.compute(x)
        if found.requires_grad:
            return found
        self._kept[key] = found.clone()
        if len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
