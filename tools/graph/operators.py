"""What the operators of a traced graph do to rounding, and how many terms they add up.

An operator rounds its result unless it only moves, selects or compares elements. The list of those that round nothing
is the one that has to be right: what is missing from it is perturbed, which widens a bound and never narrows it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

_EXACT = """
    abs alias amax amin argmax argmin as_strided bitwise_and bitwise_not bitwise_or bitwise_xor broadcast_in_dim cat
    ceil clamp clone collapse_view complex conj conj_physical constant_pad_nd contiguous convert_element_type copy
    copysign cumax cummax cummin detach diag_embed diagonal empty empty_like empty_strided expand expand_as expand_copy
    fill flip floor full full_like gather imag index index_select iota lift_fresh_copy logical_and logical_not
    logical_or logical_xor masked_fill max maximum median min minimum mode movedim narrow ne neg new_empty new_full
    new_ones new_zeros nextafter nonzero ones ones_like permute positive real relu repeat reshape resolve_conj rev roll
    round scalar_tensor scatter select select_scatter sgn sign slice slice_in_dim slice_scatter sort split split_dim
    split_with_sizes squeeze stack t take take_along_dim to topk transpose tril triu trunc unbind unflatten unfold
    unsqueeze view view_as_complex view_as_real view_of where zeros zeros_like _to_copy _unsafe_index _unsafe_view
    _reshape_alias fmax fmin hardtanh threshold max_pool2d_with_indices max_pool3d_with_indices
""".split()
EXACT = frozenset(_EXACT) | {f"{name}_copy" for name in _EXACT}
"""operators that move, select or exchange the sign of elements"""
COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "isnan": "isnan",
    "isinf": "isinf",
    "isfinite": "isfinite",
    "signbit": "signbit",
}
"""operators that compare, and NumPy's names for them"""
PRODUCTS = frozenset("mm bmm mv dot addmm baddbmm addmv addbmm convolution convolution_backward".split())
"""operators that multiply matrices, as NumPy's ``@`` does"""
CUMULATIVE = frozenset("cumsum cumprod logcumsumexp".split())
SUMS = CUMULATIVE | frozenset(
    "sum mean prod var std var_mean std_mean nansum logsumexp linalg_vector_norm norm".split()
)
"""operators that add up, or multiply, the elements of an axis"""
SCATTERED = frozenset("index_add scatter_add index_put _unsafe_index_put embedding_dense_backward".split())
"""operators that add up elements wherever an index sends them"""
DECOMPOSITIONS = ("_fft", "fft", "linalg_", "_linalg", "cholesky", "triangular_solve")
"""beginnings of the names of operators that work on whole matrices or axes inside of a library"""
NUMBERS = frozenset("add sub mul div rsub true_divide divide pow maximum minimum fmod remainder atan2 lerp".split())
"""operators of which a Python float is an operand, as a tensor would be"""


def name_of(target: Any) -> str:
    """The name of an operator without its namespace and overload: ``sum`` for ``aten.sum.dim_IntList``."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def is_random(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def is_data_dependent(node: Node) -> bool:
    """Whether a node makes a Python number or a length of values."""
    made = node.meta.get("val")
    symbolic = (torch.SymInt, torch.SymFloat, torch.SymBool)
    shape = made.shape if isinstance(made, torch.Tensor) else ()
    return isinstance(made, symbolic) or any(isinstance(n, symbolic) for n in shape)


def terms(node: Node) -> int:
    """How many terms one element of a node's result adds up; 1 where it adds none."""
    name = name_of(node.target)
    shapes = [tuple(x.meta["val"].shape) for x in node.all_input_nodes if isinstance(x.meta.get("val"), torch.Tensor)]
    made = node.meta.get("val")
    results = [y for y in (made if isinstance(made, (tuple, list)) else [made]) if isinstance(y, torch.Tensor)]
    if node.op != "call_function" or not shapes or not results:
        return 1
    size = math.prod(shapes[0])
    if name == "convolution":
        weight, transposed, groups = shapes[1], node.args[6], node.args[8]
        return weight[0] // groups * math.prod(weight[2:]) if transposed else math.prod(weight[1:])  # type: ignore[operator]
    if name == "convolution_backward":  # the gradient of a weight is a sum over batch and positions
        grad, weight = shapes[0], shapes[2]
        return max(math.prod(grad) // max(grad[1], 1), math.prod(weight) // max(min(weight[:2]), 1))
    if name in PRODUCTS:
        return shapes[len(shapes) > 2][-1]  # addmm has what it adds before the factors
    if name in CUMULATIVE:
        return max(shapes[0], default=1)
    if name in SUMS:
        return size // max(results[0].numel(), 1)
    if name in SCATTERED:
        return max(map(max, filter(None, shapes)), default=1)
    if name.startswith(DECOMPOSITIONS):
        return max((n for shape in shapes for n in shape[-2:]), default=1)
    return 1
