"""Baselines of `gelu` in Python."""

import torch


def gelu(x):
    return torch.nn.functional.gelu(x)


BASELINES = {
    "torch": ("torch", lambda: gelu),
    "torch.compile": ("torch", lambda: torch.compile(gelu, dynamic=False)),
}
