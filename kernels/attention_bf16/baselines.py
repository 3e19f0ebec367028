"""Baselines of attention in Python: the backends of PyTorch's scaled dot-product attention."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right


def attention(q, k, v, causal, scale):
    group = q.shape[1] // k.shape[1]
    if causal and q.shape[2] != k.shape[2]:
        # This mask takes no grouped heads.
        if group > 1:
            k, v = (tensor.repeat_interleave(group, dim=1) for tensor in (k, v))
        mask = causal_lower_right(q.shape[2], k.shape[2])
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale or None)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=bool(causal), scale=scale or None, enable_gqa=group > 1
    )


def with_backend(backend):
    def run(q, k, v, causal, scale):
        with sdpa_kernel(backend):
            return attention(q, k, v, causal, scale)

    return run


BASELINES = {
    "torch": ("torch", lambda: attention),
    "torch-flash": ("torch", lambda: with_backend(SDPBackend.FLASH_ATTENTION)),
}
if torch.cuda.is_available():
    BASELINES["torch-cudnn"] = ("torch", lambda: with_backend(SDPBackend.CUDNN_ATTENTION))
