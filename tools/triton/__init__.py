"""Triton kernels without a GPU: interpreted under observation, and compiled ahead of time."""
