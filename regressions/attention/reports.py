"""Entries of the DiffiT report without a formula: files written, names, presets, checklists, limitations."""

from __future__ import annotations

from trueness.regressions.attention.entries import PAPER, entry

BUGS = (
    entry(
        "DIFFIT-01",
        "a forward pass writes a debug file",
        "debug logging was removed",
        "process",
        "Whether the report's commit still logs cannot be seen any more. What a user wants is checked: our modules "
        "write no file and print nothing.",
        source="the repository at 598114c8",
    ),
    entry(
        "DIFFIT-06",
        "names and comments do not say which equation they are",
        "documentation and naming were improved",
        "process",
        "No formula. Checked of ours: every weight has the name of its symbol, every module names its equation.",
        source=PAPER,
    ),
    entry(
        "DIFFIT-07",
        "the presets contradict themselves",
        "presets match the paper's tables; 200K iterations; depth 30 with 561M parameters",
        "claim false",
        "num_patches is a grid side: 16, 4 and 4 tokens, so that windows are as large as the grid or larger. 200000 "
        "kimg are 390625 iterations at batch 512 and 781250 at 256. Depth 28 has 561.04M parameters, 30 has 600.91M.",
        source=f"{PAPER} §3-4; DiffiT-v2 presets",
    ),
    entry(
        "DIFFIT-08",
        "the supplementary tables were not checked",
        "all values agree with tables S.2 and S.3",
        "process",
        "Those tables could not be retrieved, so the claim is unverified either way. What can be tested is: the "
        "presets keep their own rules, and the published total of 561M parameters is met.",
        source=f"{PAPER}, supplement (not retrievable)",
    ),
    entry(
        "DIFFIT-13",
        "a checklist without a tick, and ready for production",
        "the implementation is production-ready",
        "claim false",
        "All six boxes of the testing list are empty. What such a list asks for is run here on our models: shapes, "
        "finite gradients in every weight, windows, labels, half precision, save and load.",
        source="the report itself",
    ),
    entry(
        "DIFFIT-16",
        "known limitations: latents, sampling steps, distillation, memory",
        "four limitations are listed, among them that no latent model exists",
        "process",
        "No formula. The list contradicts the latent presets beside it. Ours has a latent model, and windows that cut "
        "the attention terms by w²/(H W).",
        source=PAPER,
    ),
)
