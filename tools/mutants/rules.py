"""What may stand in place of a node of the syntax tree: the rules of the mutants.

Each rule yields (replacement, what kind of change). An operator, a constant, a bound of a slice, the order of operands
and of arguments, a term, a keyword, a branch, or a function for one that is easily taken for it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

Replacements = Iterator[ast.expr]

OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.FloorDiv: (ast.Mod,),
    ast.Mod: (ast.FloorDiv,),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
ORDERED = (ast.Sub, ast.Div, ast.Pow, ast.FloorDiv, ast.Mod, ast.MatMult)
"""operations that are not commutative"""
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
FUNCTIONS = {
    "np.sin": "np.cos",
    "np.minimum": "np.maximum",
    "np.min": "np.max",
    "np.exp": "np.expm1",
    "np.sum": "np.mean",
    "np.log": "np.log1p",
    "np.floor": "np.ceil",
    "np.zeros": "np.ones",
    "np.prod": "np.sum",
    "np.any": "np.all",
    "np.tanh": "np.sin",
    "np.add.accumulate": "np.multiply.accumulate",
    "np.argmin": "np.argmax",
    "min": "max",
    "math.sin": "math.cos",
    "math.exp": "math.expm1",
    "math.log": "math.log1p",
    "math.floor": "math.ceil",
}
"""each of the two for the other; of two partners the one on the right"""
SWAPPED = {**{b: a for a, b in FUNCTIONS.items()}, **FUNCTIONS}
TRANSPARENT = frozenset(
    "np.sqrt np.exp np.log np.tanh np.sin np.cos np.abs np.floor np.ceil np.expm1 np.log1p np.swapaxes np.moveaxis "
    "np.clip np.cumsum np.add.accumulate np.multiply.accumulate np.maximum.accumulate math.sqrt math.exp math.log "
    "math.factorial".split()
)
"""calls for which their first argument may stand"""
EITHER = frozenset("np.minimum np.maximum min max".split())
"""calls for which each of two arguments may stand"""
METHODS = frozenset("swapaxes transpose clip".split())
"""methods for which the array itself may stand"""


def replacements(node: ast.AST) -> Replacements:
    """Every expression that may stand in place of ``node``."""
    value = number(node)
    if value is not None:
        yield from map(literal, other_numbers(value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield literal(not node.value)
    elif isinstance(node, ast.BinOp):
        yield from of_operation(node)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS[type(node.ops[0])]:
            yield ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield from node.values
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Call):
        yield from of_call(node)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield from of_subscript(node)
    elif isinstance(node, ast.Slice):
        yield from of_slice(node)
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif isinstance(node, ast.Dict):
        for i in range(len(node.values) - 1):
            yield ast.Dict(node.keys, exchanged(node.values, i))


def number(node: ast.AST) -> int | float | None:
    """The number that is written here, with its sign; None where none is."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = number(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return node.value
    return None


def other_numbers(value: int | float) -> list[int | float]:
    """One more, one less, the double, the opposite; 0 and 1 are one more and one less than each other."""
    found = [value + 1, value - 1, 2 * value, -value]
    return [n for i, n in enumerate(found) if n != value and n not in found[:i]]


def literal(value: Any) -> ast.expr:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def of_operation(node: ast.BinOp) -> Replacements:
    left, right = node.left, node.right
    for operation in OPERATORS.get(type(node.op), ()):
        yield ast.BinOp(left, operation(), right)
    if isinstance(node.op, ORDERED):
        yield ast.BinOp(right, node.op, left)
    if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitAnd, ast.BitOr)):
        yield left
    if isinstance(node.op, (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)):
        yield right
    if isinstance(node.op, ast.Sub):
        yield ast.UnaryOp(ast.USub(), right)
    if isinstance(node.op, ast.Div):
        yield ast.BinOp(ast.Constant(1), ast.Div(), right)


def of_call(node: ast.Call) -> Replacements:
    name = ast.unparse(node.func)
    if name in SWAPPED:
        yield ast.Call(ast.parse(SWAPPED[name], mode="eval").body, node.args, node.keywords)
    if name in TRANSPARENT and node.args:
        yield node.args[0]
    if (name in EITHER and len(node.args) == 2) or name == "np.where":
        yield from node.args[-2:]
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and name not in TRANSPARENT:
        yield node.func.value
    for i, (a, b) in enumerate(zip(node.args, node.args[1:], strict=False)):
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred) and name not in EITHER:
            yield ast.Call(node.func, exchanged(node.args, i), node.keywords)
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "strict"):
            yield ast.Call(node.func, node.args, [*node.keywords[:i], *node.keywords[i + 1 :]])


def of_subscript(node: ast.Subscript) -> Replacements:
    if isinstance(node.slice, ast.Slice):
        yield node.value


def of_slice(node: ast.Slice) -> Replacements:
    lower, upper, step = node.lower, node.upper, node.step
    ends: list[tuple[ast.expr | None, ast.expr | None]] = [(x, upper) for x in moved(lower, 1)] + [
        (lower, x) for x in moved(upper, -1)
    ]
    ends += [(None, upper)] if lower else []
    ends += [(lower, None)] if upper else []
    for low, high in ends:
        yield ast.Slice(low, high, step)
    yield ast.Slice(lower, upper, None if step else literal(-1))


def moved(bound: ast.expr | None, start: int) -> list[ast.expr]:
    """A bound of a slice moved by one; constants have a rule of their own."""
    if bound is None:
        return [literal(start)]
    if number(bound) is not None:
        return []
    return [ast.BinOp(bound, operation, ast.Constant(1)) for operation in (ast.Add(), ast.Sub())]


def exchanged(items: list[Any], i: int) -> list[Any]:
    """The items i and i + 1 exchanged."""
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]
