"""Device code: the jitted functions that the kernels of several ops call. Nothing here runs on the host."""
