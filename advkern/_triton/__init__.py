"""Triton kernels; each module is imported only when its kernel is chosen."""
