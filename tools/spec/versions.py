"""The versions that a result depends on."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("trueness", "torch", "numpy", "hypothesis", "scipy", "python-flint", "triton", "jax", "diffusers")


def installed(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Python and ``packages``, as far as they are installed, with their versions."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
