"""Torch functions as references: traced to a graph of elementary operations, which runs in the arithmetics of NumPy."""
