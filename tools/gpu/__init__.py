"""Correctness and timing on a GPU in one call: `trueness gpu`, or `python tools/gpu` without an installation."""
