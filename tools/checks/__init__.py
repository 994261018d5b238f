"""The generic checks, one module per kind, and the order they run in."""

from trueness.tools.checks import backward, contract, cuda, layouts, policies, purity, reference, torch, triton, value

IN_ORDER = (
    value.value,
    value.gradient,
    value.second_derivative,
    backward.gradient_layouts,
    backward.gradient_contract,
    layouts.layouts,
    contract.shapes,
    policies.special_values,
    purity.determinism,
    purity.inputs_unchanged,
    purity.no_aliasing,
    contract.no_stale_cache,
    contract.poisoned_allocations,
    contract.red_zones,
    contract.out_argument,
    torch.opcheck,
    torch.compiles,
    torch.autocast,
    torch.vmap,
    torch.jvp,
    triton.kernel_memory,
    triton.kernel_tiles,
    triton.kernel_offsets,
    cuda.graph_capture,
    cuda.int32_overflow,
    cuda.side_stream,
    cuda.repeatability,
    cuda.compute_sanitizer,
    reference.ball_certificate,
    reference.complex_step_certificate,
    reference.power,
    reference.known_bugs,
)
CHECKS = {entry.name: entry for entry in IN_ORDER}
"""name → check, in the order they run in"""

__all__ = ["CHECKS"]
