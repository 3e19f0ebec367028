//! Where the tensors of a baseline in Python are in the shared memory, and what its calls are given.
//!
//! Describes only: `baseline` fills and reads the tensors.

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::kernel::scalar;
use crate::kernel::Scalars;
use crate::kernel::plan::{BufferRole, LaunchPlan};
use crate::task::{DType, Definition};

/// Alignment of the tensors in the shared memory.
const ALIGNMENT: u64 = 256;

/// Where the tensors are in the shared memory.
pub(super) struct Layout {
    /// The arguments of a call, as `baseline.py` reads them.
    pub(super) inputs: Vec<Value>,
    pub(super) outputs: Vec<Value>,
    /// The offset of each copy, by buffer.
    pub(super) input_offsets: IndexMap<usize, Vec<u64>>,
    /// The place of each input in `inputs`, by buffer.
    pub(super) input_positions: IndexMap<usize, usize>,
    /// By buffer: where the script writes its values in double precision.
    pub(super) output_offsets: IndexMap<usize, u64>,
    pub(super) buffers: Vec<Described>,
    pub(super) bytes: u64,
}

/// What is known of a buffer.
pub(super) struct Described {
    pub(super) dtype: DType,
    /// Length of the last axis.
    pub(super) row: u64,
    pub(super) elements: u64,
}

impl Layout {
    pub(super) fn new(
        definition: &Definition,
        plan: &LaunchPlan,
        scalars: &Scalars,
        copies: usize,
    ) -> Self {
        let mut end = 0;
        let mut place = |bytes: u64| {
            let offset = end;
            end = (offset + bytes).next_multiple_of(ALIGNMENT);
            offset
        };
        let is_input = |role| matches!(role, BufferRole::Input | BufferRole::InPlace);
        let mut input_offsets = IndexMap::new();
        let mut input_positions = IndexMap::new();
        let mut inputs = Vec::new();
        for (name, tensor) in &definition.inputs {
            let mut buffers = plan.buffers.iter();
            let buffer = buffers.position(|buffer| buffer.name == *name && is_input(buffer.role));
            inputs.push(match (buffer, scalars.get(name)) {
                (Some(index), _) => {
                    let buffer = &plan.buffers[index];
                    let offsets: Vec<u64> = (0..copies).map(|_| place(buffer.bytes())).collect();
                    input_offsets.insert(index, offsets.clone());
                    input_positions.insert(index, inputs.len());
                    json!({
                        "name": name, "dtype": buffer.dtype.to_string(), "shape": buffer.shape, "offsets": offsets,
                    })
                }
                (None, Some(value)) => {
                    json!({"name": name, "scalar": scalar(tensor.dtype, *value)})
                }
                (None, None) => json!({"name": name}),
            });
        }
        let buffers: Vec<Described> = (plan.buffers.iter())
            .map(|buffer| Described {
                dtype: buffer.dtype,
                row: buffer.shape.last().copied().unwrap_or(1),
                elements: buffer.bytes() / buffer.dtype.bytes(),
            })
            .collect();
        let mut output_offsets = IndexMap::new();
        let mut outputs = Vec::new();
        for &index in &plan.outputs {
            let Some(buffer) = plan.buffers.get(index) else {
                continue;
            };
            let offset = place(buffers[index].elements * 8);
            output_offsets.insert(index, offset);
            outputs.push(json!({
                "name": buffer.name, "dtype": buffer.dtype.to_string(), "shape": buffer.shape, "offset": offset,
            }));
        }
        Self {
            inputs,
            outputs,
            input_offsets,
            input_positions,
            output_offsets,
            buffers,
            bytes: end,
        }
    }
}
