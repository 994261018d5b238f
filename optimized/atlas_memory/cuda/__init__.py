"""Triton kernels of the Omega rule."""
