"""Baselines of `gdn_decode` in Python."""

import math

import torch


def decode(q, k, v, state, A_log, a, dt_bias, b, scale):
    """The gated delta rule in PyTorch. The state maps a key (last axis) to a value, per sequence and value head."""
    scale = scale or 1.0 / math.sqrt(q.shape[-1])
    group = v.shape[2] // q.shape[2]
    queries = q[:, 0].float().repeat_interleave(group, dim=1)
    keys = k[:, 0].float().repeat_interleave(group, dim=1)
    values = v[:, 0].float()
    step = torch.nn.functional.softplus(a[:, 0].float() + dt_bias)
    keep = torch.exp(-torch.exp(A_log) * step)
    beta = torch.sigmoid(b[:, 0].float())
    if state is None:
        state = q.new_zeros(q.shape[0], v.shape[2], v.shape[3], q.shape[3], dtype=torch.float32)
    decayed = keep[..., None, None] * state
    predicted = (decayed * keys[..., None, :]).sum(-1)
    correction = beta[..., None] * (values - predicted)
    new_state = decayed + correction[..., :, None] * keys[..., None, :]
    output = scale * (new_state * queries[..., None, :]).sum(-1)
    return output[:, None].to(torch.bfloat16), new_state


def flash_linear_attention():
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    def run(q, k, v, state, A_log, a, dt_bias, b, scale):
        return fused_recurrent_gated_delta_rule(
            q,
            k,
            v,
            g=a,
            beta=b,
            scale=scale or None,
            initial_state=state,
            output_final_state=True,
            use_gate_in_kernel=True,
            A_log=A_log,
            dt_bias=dt_bias,
            use_beta_sigmoid_in_kernel=True,
            state_v_first=True,
        )

    return run


BASELINES = {
    "torch": ("torch", lambda: decode),
    "torch.compile": ("torch", lambda: torch.compile(decode, dynamic=False)),
    "flash-linear-attention": ("flash-linear-attention", flash_linear_attention),
}
