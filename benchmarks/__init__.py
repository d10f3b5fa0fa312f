"""Benchmarks of equifast against the published package, plain PyTorch and the machine's own limits.

``python -m benchmarks`` measures and writes everything. `ops` has a file for each operation, `pipeline` one for each
whole pass or step. `harness` says how to measure, against what, and which targets there are. `gpu` has what needs a
GPU, or stands in for one. `compiled` lists what compilers make of the kernels, and `counted` what these do.
"""
