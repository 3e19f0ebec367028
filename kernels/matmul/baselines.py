"""Baselines of `matmul` in Python: PyTorch calls cuBLAS on a GPU."""

import torch


def matmul(A, B):
    return torch.matmul(A, B.T)


BASELINES = {
    "torch": ("torch", lambda: matmul),
}
