"""Benchmarks of equifast against the published package, plain PyTorch and the machine's own limits.

``python -m benchmarks`` measures and writes everything; `harness` says how, `targets` what would be good enough.
"""
