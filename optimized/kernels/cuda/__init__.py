"""Triton kernels of random features."""
