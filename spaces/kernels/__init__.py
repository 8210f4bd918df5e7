"""Hand-written kernels: faster gradients on a CPU, and functions that keep less memory for the backward pass.

Nothing here knows a search space or a network. Each module computes what PyTorch's own operators compute, gradients of
second order included, and says what it is for and what it is measured against. Where it has nothing to gain (on another
device, for another memory layout, under the compiler) it calls PyTorch's operator.
"""
