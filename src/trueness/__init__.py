"""Trueness: is the fast version right, how right, and since when?

The names below are loaded when they are first used, so that `import trueness` alone costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trueness.tools.closeness.assertions import bound
    from trueness.tools.run.api import check
    from trueness.tools.spec.model import Bug, Formula, Implementation, Verdict

    __version__: str

__all__ = ["Bug", "Formula", "Implementation", "Verdict", "__version__", "bound", "check"]

_HOME = {
    "bound": "trueness.tools.closeness.assertions",
    "check": "trueness.tools.run.api",
    "Bug": "trueness.tools.spec.model",
    "Formula": "trueness.tools.spec.model",
    "Implementation": "trueness.tools.spec.model",
    "Verdict": "trueness.tools.spec.model",
}

if not TYPE_CHECKING:  # a type checker that saw this function would accept any misspelt name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("trueness")
        elif name in _HOME:
            from importlib import import_module

            try:
                value = getattr(import_module(_HOME[name]), name)
            except ModuleNotFoundError as missing:
                if (missing.name or "").startswith("trueness"):
                    raise
                needs = f"trueness.{name} needs {missing.name}: pip install 'trueness[verify]'"
                raise ModuleNotFoundError(needs, name=missing.name) from None
        else:
            raise AttributeError(f"module 'trueness' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
