//! Has Python fill tensors on the GPU with the judge's own kernels, so that they get the values that a kernel's buffers get.
//!
//! Filling them on the host and copying them would take most of the time of a sample. Launches nothing: `baseline.py` does.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::device::numerics;
use crate::device::{Device, FillKernels};
use crate::task::{DType, Definition, Distribution};

/// The fill kernels of the dtypes of a task's inputs. Empty on a device whose buffers the host fills.
pub(super) struct DeviceFills(HashMap<DType, FillKernels>);

/// What a fill fills: an input of the definition, in all copies.
#[derive(Clone, Copy)]
pub(super) struct FilledInput<'i> {
    /// Its place among the inputs of the definition.
    pub(super) position: usize,
    pub(super) dtype: DType,
    /// Length of the last axis.
    pub(super) row: u64,
    pub(super) elements: u64,
    /// The number of each copy, from which its values are drawn.
    pub(super) copy_numbers: &'i [u32],
}

impl DeviceFills {
    pub(super) fn new(device: &dyn Device, definition: &Definition) -> anyhow::Result<Self> {
        let mut fills = HashMap::new();
        for tensor in definition.inputs.values() {
            if let Some(kernels) = device.fill_kernels(tensor.dtype)? {
                fills.insert(tensor.dtype, kernels);
            }
        }
        Ok(Self(fills))
    }

    /// The request for `baseline.py` that fills an input; `None` if the host has to.
    pub(super) fn request(
        &self,
        input: FilledInput<'_>,
        distribution: &Distribution,
        seed: u64,
    ) -> Option<Value> {
        let kernels = self.0.get(&input.dtype)?;
        let row = input.row.clamp(1, input.elements.max(1));
        let raw = numerics::raw_distribution(input.dtype, row, distribution);
        let entry = if raw.needs_whole_row() {
            &kernels.by_row
        } else {
            &kernels.by_element
        };
        Some(json!({
            "input": input.position,
            "image": kernels.program.image,
            "entry": entry,
            "elements": input.elements,
            "distribution": raw.words(),
            "seed": seed,
            "numbers": input.copy_numbers,
        }))
    }
}

/// Requests since the last sample, at most one for each input.
#[derive(Default)]
pub(super) struct PendingFills(Vec<Value>);

impl PendingFills {
    /// Replaces an earlier request for the same input.
    pub(super) fn add(&mut self, request: Value) {
        self.0
            .retain(|earlier| earlier["input"] != request["input"]);
        self.0.push(request);
    }

    pub(super) fn all(&self) -> &[Value] {
        &self.0
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
