"""What is verified, as plain data: the one place that builds a verdict and the text that reproduces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueness.tools.spec.model import Status, Verdict
from trueness.tools.spec.tables import DEFAULT_DEVICE


@dataclass(frozen=True)
class Subject:
    """One implementation of one formula in one dtype on one device.

    origin     "builtin", "third_party" or "user"
    framework  of a user's callable, where it cannot be guessed
    limit      the class of limit that a user's callable is held to
    policy     "observe" or "strict"; empty: as the origin has it
    """

    formula: str
    implementation: str
    dtype: str
    device: str = DEFAULT_DEVICE
    origin: Any = "builtin"
    framework: str = ""
    limit: str = "fused"
    policy: str = ""

    def verdict(self, check: str, status: Status, message: str = "", **fields: Any) -> Verdict:
        return Verdict(
            formula=self.formula,
            implementation=self.implementation,
            dtype=self.dtype,
            check=check,
            status=status,
            device=self.device,
            origin=self.origin,
            message=message,
            **fields,
        )

    def reproduction(
        self, check: str, case: str, timeout: float = 0.0, imports: tuple[Sequence[str], str] | None = None
    ) -> str:
        """A Python text that shows a failure again when it is pasted.

        imports  the lines that import a user's callable and its name after them; with ``timeout`` it is given as
                 module:callable instead, to run in a process of its own
        """
        lines, target = imports or ((), repr(self.implementation))
        by_user = self.origin == "user"
        device = self.device if self.device != DEFAULT_DEVICE else ""
        options: dict[str, Any] = {"dtype": self.dtype, "device": device, "case": case}
        if by_user:
            limit = self.limit if self.limit != "fused" else ""
            options |= {"framework": self.framework, "limit": limit, "timeout": timeout}
        options["policy"] = self.policy
        chosen = "".join(f", {key}={value!r}" for key, value in options.items() if value)
        only = "" if check == "value" else f", checks=[{check!r}]"
        call = f"trueness.check({self.formula!r}, {target}{chosen}{only})"
        return "\n".join(["import trueness", *lines, f"print({call})"])
