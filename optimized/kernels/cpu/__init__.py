"""Random features on the CPU, tile by tile."""
