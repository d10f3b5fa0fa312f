"""What the CUDA kernels do, counted instruction by instruction, and the time that follows from it on GPUs that aren't
here.
"""
