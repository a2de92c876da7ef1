"""The stages: short functions that join rules and kernels."""
