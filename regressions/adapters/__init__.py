"""Known bugs of the family adapters: where dropout stands, and what α and r do."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import adapters as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import UNDOCUMENTED, Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
HU = "Hu et al. 2021 (2106.09685) eq. 3 and the code published with it; peft; loralib"


def bits(mask: Any, width: int) -> Any:
    """A mask of another width, from the same bits"""
    return mask[..., np.arange(width) % mask.shape[-1]]


def dropout_on_the_output(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: Any, p: Any) -> Any:
    """W_0 x + (α/r) dropout(B A x): the documented fix"""
    adapter = true._dropped(x @ lora_A.T @ lora_B.T, bits(mask, len(lora_B)), p)
    return x @ weight.T + adapter * (alpha / len(lora_A))


def dropout_in_the_middle(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: Any, p: Any) -> Any:
    """W_0 x + (α/r) B dropout(A x): before, and again at HEAD"""
    adapter = true._dropped(x @ lora_A.T, bits(mask, len(lora_A)), p) @ lora_B.T
    return x @ weight.T + adapter * (alpha / len(lora_A))


def dropout_on_everything(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: Any, p: Any) -> Any:
    """(W_0 + (α/r) B A) dropout(x): the frozen path sees it too"""
    return true.lora(true._dropped(x, mask, p), weight, lora_A, lora_B, alpha=alpha)


def not_rescaled(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: Any, p: Any) -> Any:
    """What is kept is not divided by 1 − p"""
    return true.lora(x, weight, lora_A, lora_B, mask=mask, alpha=alpha)


def not_divided_by_rank(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: Any, p: Any) -> Any:
    """α for α/r"""
    return true.lora(x, weight, lora_A, lora_B, mask=mask, alpha=alpha * len(lora_A), p=p)


def merged_without_scale(weight: Any, lora_A: Any, lora_B: Any, alpha: Any) -> Any:
    """W_0 + B A"""
    return weight + lora_B @ lora_A


def merged_again(weight: Any, lora_A: Any, lora_B: Any, alpha: Any) -> Any:
    """unmerging adds"""
    return true.merge(weight, lora_A, lora_B, alpha=alpha)


WEIGHT = np.array([[1.0, -2.0, 0.5], [0.25, 1.0, -1.0]])
LORA_A = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0]])
LORA_B = np.array([[1.0, -0.5], [2.0, 1.0]])
X = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
MASK = np.array([[True, False, True], [False, True, True]])
LAYER = (X, WEIGHT, LORA_A, LORA_B, MASK, 8.0, 0.5)
MATRICES = (WEIGHT, LORA_A, LORA_B, 8.0)

BUGS = (
    Bug(
        id="ATLAS-11",
        formula="adapters.lora",
        title="dropout on the adapter's output",
        document=ATLAS,
        claim="dropout belongs on the output, which preserves the low-rank factorization",
        verdict="real bug, wrong fix",
        source=HU,
        finding="The paper's code and peft drop the input. The rank says nothing: every sampled map has rank ≤ r in "
        "all three placements. Output noise leaves the column space of B and is uncorrelated between outputs. HEAD "
        "undid the fix.",
        evidence=show("ATLAS-11"),
        variant=dropout_on_the_output,
        discriminating_input=LAYER,
    ),
    Bug(
        id="ATLAS-11b",
        formula="adapters.lora",
        title="dropout between A and B",
        document=ATLAS,
        claim="B dropout(A x) was wrong (before, and again at HEAD)",
        verdict="real bug, wrong fix",
        source=HU,
        finding="The mean is right and the noise another one: q (sB) diag((A x)²) (sB)ᵀ instead of q M diag(x²) Mᵀ.",
        evidence=show("ATLAS-11b"),
        variant=dropout_in_the_middle,
        discriminating_input=LAYER,
    ),
    Bug(
        id="ATLAS-11c",
        formula="adapters.lora",
        title="what dropout keeps is not scaled up",
        document=UNDOCUMENTED,
        claim="a mask is a mask",
        verdict="no bug",
        source="Srivastava et al. 2014, inverted dropout; torch.nn.Dropout",
        finding="The mean of the adapter is then (1 − p) of what it is in eval mode.",
        evidence=show("ATLAS-11c"),
        variant=not_rescaled,
        discriminating_input=LAYER,
    ),
    Bug(
        id="ATLAS-11d",
        formula="adapters.lora",
        title="α in place of α/r",
        document=UNDOCUMENTED,
        claim="the scale is α",
        verdict="no bug",
        source=HU,
        finding="Invisible at r = 1. α/r keeps the size of the change when r is.",
        evidence=show("ATLAS-11d"),
        variant=not_divided_by_rank,
        discriminating_input=LAYER,
    ),
    Bug(
        id="ATLAS-11e",
        formula="adapters.merge",
        title="merged without the scale",
        document=UNDOCUMENTED,
        claim="W = W_0 + B A",
        verdict="no bug",
        source=HU,
        finding="Right only for α = r: the merged layer is then another one than the adapted layer.",
        evidence=show("ATLAS-11e"),
        variant=merged_without_scale,
        discriminating_input=MATRICES,
    ),
    Bug(
        id="ATLAS-11f",
        formula="adapters.unmerge",
        title="unmerging that merges once more",
        document=UNDOCUMENTED,
        claim="merge and unmerge undo each other",
        verdict="no bug",
        source=HU,
        finding="Even the right unmerge gives W_0 back only to rounding, so a layer that is merged and unmerged at "
        "every evaluation drifts. LoRALinear keeps W_0 and returns to it bit for bit.",
        evidence=show("ATLAS-11f"),
        variant=merged_again,
        discriminating_input=MATRICES,
    ),
    Bug(
        id="ATLAS-11g",
        formula="",
        title="an empty list of targets meant all layers, then none",
        document=ATLAS,
        claim="(undocumented)",
        verdict="real bug, wrong fix",
        source="an argument that selects nothing is a mistake of the caller",
        finding="Before, an empty list wrapped every linear layer; after, none, silently. `adapt` refuses it, and "
        "names that match nothing.",
        evidence=show("ATLAS-11g"),
    ),
    Bug(
        id="ATLAS-11h",
        formula="adapters.lora",
        title="dropout on the frozen path as well",
        document=UNDOCUMENTED,
        claim="h = (W_0 + (α/r) B A) dropout(x)",
        verdict="no bug",
        source=HU,
        finding="W_0 x must stay what it was: with B = 0 the adapted layer is the frozen one for every mask.",
        evidence=show("ATLAS-11h"),
        variant=dropout_on_everything,
        discriminating_input=LAYER,
    ),
)
