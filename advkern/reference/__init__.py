"""Every op in plain PyTorch: the fallback, the oracle and the baseline. Imports nothing but torch."""
