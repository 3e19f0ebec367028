"""Baselines of `softmax_bf16` in Python."""

import torch


def softmax(x):
    return torch.softmax(x, dim=-1)


BASELINES = {
    "torch": ("torch", lambda: softmax),
    "torch.compile": ("torch", lambda: torch.compile(softmax, dynamic=False)),
}
