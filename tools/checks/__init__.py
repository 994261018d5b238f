"""The generic checks, one file per kind. Importing this package registers all of them, in the order they run in."""

from trueness.tools.checks import value  # isort: skip
from trueness.tools.checks import contract, torch  # isort: skip
from trueness.tools.checks import triton  # isort: skip
from trueness.tools.checks import cuda  # isort: skip
from trueness.tools.checks import reference  # isort: skip

KINDS = (value, contract, torch, triton, cuda, reference)

__all__ = ["KINDS"]
