from .kernels import FastKernels

__all__ = ["FastKernels"]
