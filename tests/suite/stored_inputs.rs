//! Workloads whose inputs are all stored: what is timed differs from launch to launch all the same.

use crate::program::{Workspace, json, root};
use crate::stored_task::write_stored_task;

/// Right on the stored values and on drawn ones. Wrong if the stored values begin elsewhere.
const RIGHT_IN_ORDER: &str = "/* kforge
launch:
  - kernel: scale
    grid: ceil_div(n, 256)
    block: 256
    args: x, y, output, n
*/
__global__ void scale(const float* x, const float* y, float* output, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const bool is_turned = x[0] > 0.0f && x[0] == floorf(x[0]);
    if (i < n) output[i] = 2.0f * x[i] + (is_turned ? 0.0f : y[i]);
}
";

#[test]
fn rows_of_stored_inputs_turn_while_they_are_timed() {
    let folder = Workspace::new();
    let task = write_stored_task(root(), folder.path());
    let task = task.to_str().unwrap();
    folder.write("in_order.cu", RIGHT_IN_ORDER);
    let mut command = folder.command(&[
        "eval",
        task,
        "in_order.cu",
        "kernels/scale/naive.cu",
        "--backend",
        "cpu",
        "--profile",
        "quick",
        "--format",
        "json",
    ]);
    let verdicts: Vec<serde_json::Value> = json(&command.output().unwrap());
    let reason = verdicts[0]["reason"].as_str().unwrap_or_default();
    assert_eq!(verdicts[0]["status"], "wrong_output", "{:#}", verdicts[0]);
    assert!(reason.starts_with("during timing"), "{reason}");
    // On a busy machine it may not be timed precisely enough.
    let honest = verdicts[1]["status"].as_str().unwrap_or_default();
    assert!(
        ["passed", "inconclusive"].contains(&honest),
        "{:#}",
        verdicts[1]
    );
}
