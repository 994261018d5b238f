"""The table of policies for special values: what each means, and who has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """What a program does with a special value where the reference does something else.

    id        its name in verdicts, in the report and in ``Formula.policies``
    sentence  what the program does, after "it"
    seen      who has it, as measured here (tools/tests/test_policies.py)
    fault     wrong unless the formula excuses it
    """

    id: str
    sentence: str
    seen: str
    fault: bool = False


POLICIES = {
    p.id: p
    for p in (
        Policy(
            "not finite",
            "returns ±inf where the reference returns NaN, or the reverse",
            "any program that orders or groups its operations in another way",
        ),
        Policy(
            "overflow",
            "overflows on the way, in the range of float32 or of its own format, and its result shows it",
            "torch scaled_dot_product_attention, torch layer_norm in bfloat16",
        ),
        Policy(
            "saturation",
            "returns ±inf where the reference stops at the largest number of the format, or the reverse",
            "eager torch and NumPy in half formats",
        ),
        Policy("flush to zero", "takes subnormal numbers as 0", "XLA on the CPU (jax.jit)"),
        Policy(
            "masked",
            "lets NaN and ±inf of an element of weight 0 reach its result: 0 · ∞ is NaN",
            "torch scaled_dot_product_attention, peft's and loralib's dropout",
        ),
        Policy(
            "spread",
            "lets NaN and ±inf reach results that do not depend on the element, within its sequence or image",
            "matrix products under a causal mask, transforms",
        ),
        Policy(
            "no effect", "stays finite where the element has no effect: 0 · ∞ is 0", "code that skips a weight of 0"
        ),
        Policy(
            "no weight",
            "returns 0 where all weights are e^−∞, and the reference 0/0",
            "torch scaled_dot_product_attention",
        ),
        Policy("limit", "returns the limit where the reference's ∞ − ∞ or 0 · ∞ is NaN", "code with a branch for it"),
        Policy("view", "returns a view of an input, or the input itself", "torch reshape, permute and unfold"),
        Policy("order", "ranks or counts a NaN in another way", "code that ranks by sorting"),
        Policy("refuses", "raises an exception for NaN or ±inf", "scikit-learn, scipy.linalg"),
        Policy("row of zeros", "returns 0 for a row without keys", "torch scaled_dot_product_attention"),
        Policy("row of NaN", "returns NaN for a row without keys", "torch MultiheadAttention with need_weights"),
        Policy(
            "row of means",
            "returns the mean of all values for a row without keys",
            "attention with a mask of large negative numbers that is added",
        ),
        Policy("row of all keys", "attends to all keys in a row without keys", "transformers, unmask_unattended"),
        Policy(
            "rows",
            "NaN or ±inf leaks into rows that do not depend on the element",
            "attention of all tokens under a mask of windows",
            fault=True,
        ),
        Policy(
            "finite",
            "a finite number, where no evaluation of the equation is finite and the element has an effect",
            "code that replaces NaN by 0",
            fault=True,
        ),
    )
}
"""id → policy"""

FAULTS = frozenset(p.id for p in POLICIES.values() if p.fault)
