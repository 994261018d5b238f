"""Triton kernels of the filters."""
