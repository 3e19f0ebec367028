"""Baselines of `gdn_prefill` in Python: the kernels of flash-linear-attention, by chunks and token by token."""


def with_function(name):
    def make():
        from fla.ops import gated_delta_rule

        function = getattr(gated_delta_rule, name)

        def run(q, k, v, state, A_log, a, dt_bias, b, cu_seqlens, scale):
            output, new_state = function(
                *(tensor.unsqueeze(0) for tensor in (q, k, v)),
                g=a.unsqueeze(0),
                beta=b.unsqueeze(0),
                scale=scale or None,
                initial_state=state,
                output_final_state=True,
                use_gate_in_kernel=True,
                A_log=A_log,
                dt_bias=dt_bias,
                use_beta_sigmoid_in_kernel=True,
                state_v_first=True,
                cu_seqlens=cu_seqlens,
            )
            return output.squeeze(0), new_state

        return run

    return make


BASELINES = {
    "flash-linear-attention": ("flash-linear-attention", with_function("chunk_gated_delta_rule")),
    "flash-linear-attention-recurrent": ("flash-linear-attention", with_function("fused_recurrent_gated_delta_rule")),
}
