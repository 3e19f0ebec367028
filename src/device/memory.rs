//! Contents of a kernel's buffers: what is written into them, and what a check of them returns.
//!
//! Shared by all devices. The functions on the elements of host memory are in `numerics`.

use std::any::Any;
use std::fmt;
use std::rc::Rc;

use crate::task::{DType, Distribution};

/// What to write into a buffer.
#[derive(Clone, Copy, Debug)]
pub enum BufferContent<'a> {
    /// Random values. The same distribution, seed and shape give the same bits on every device.
    Random {
        distribution: &'a Distribution,
        seed: u64,
    },
    /// These values, rounded to the buffer's dtype.
    Values(&'a [f64]),
    /// These bytes: elements of the buffer's dtype, little-endian.
    Bytes(&'a [u8]),
    /// A pattern that no kernel leaves in its outputs by doing its work, so it shows which elements were not written. The guard zones
    /// are written again too.
    Poison(Poison),
}

/// A pattern for memory that the kernel must write. An element that equals its poison under two patterns was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// All bits set: a NaN. The race build recognises it.
    Nan,
    /// NaNs with payloads and signs drawn from a seed; any bits for integers. A kernel's own NaN hardly ever equals its poison.
    SecretNan { seed: u64 },
    /// Finite values drawn from a seed.
    Finite { seed: u64 },
}

/// Elements of a buffer that hold their poison, or that no longer hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoisonCount {
    pub count: u64,
    /// Flat index of the first such element.
    pub first: Option<u64>,
}

/// Expected values of one output, on the host or on the device that computed them.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpectedValues {
    Host(Vec<f64>),
    OnDevice(DeviceValues),
}

impl ExpectedValues {
    /// The values of some copies. `copies` are positions among the copies of `self`.
    #[must_use]
    pub(crate) fn select_copies(&self, copies: &[usize]) -> Self {
        match self {
            Self::Host(values) => Self::Host(values.clone()),
            Self::OnDevice(all) => Self::OnDevice(DeviceValues {
                addresses: (copies.iter())
                    .filter_map(|copy| all.addresses.get(*copy).copied())
                    .collect(),
                ..all.clone()
            }),
        }
    }
}

/// One output in the memory of a device, in one or several copies.
#[derive(Clone)]
pub struct DeviceValues {
    pub(super) dtype: DType,
    pub(super) elements: u64,
    /// The address of each copy.
    pub(super) addresses: Vec<u64>,
    /// Keeps the memory allocated for as long as the addresses are in use. Its type is the device's own.
    pub(super) owner: Rc<dyn Any>,
}

impl PartialEq for DeviceValues {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, self.elements, &self.addresses)
            == (other.dtype, other.elements, &other.addresses)
    }
}

impl fmt::Debug for DeviceValues {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = self.addresses.len();
        write!(formatter, "{copies} × {} {}", self.elements, self.dtype)
    }
}

/// An output buffer as the expected values of another kernel's output.
#[derive(Clone, Debug)]
pub struct ExpectedOutput {
    pub values: ExpectedValues,
    /// Flat index of the first element that is not finite.
    pub first_not_finite: Option<u64>,
}

/// The result of comparing a tensor with its expected values: every element, sums in a fixed order.
///
/// An element passes if |x - r| <= atol_rms * rms(r) + rtol * |r|. A non-finite x fails unless r is the same. rms(r) is over the elements
/// of r that are not 0.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputComparison {
    pub elements: u64,
    pub failed: u64,
    /// The first element that failed.
    pub first: Option<Mismatch>,
    pub max_abs_error: f64,
    /// The largest |x - r| / max(|r|, rms(r)).
    pub max_rel_error: f64,
    pub mean_abs_error: f64,
    /// The largest |x - r| divided by the element's bound; infinite for a non-finite mismatch.
    pub worst_ratio: f64,
}

/// An element outside its tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Flat index.
    pub index: u64,
    pub expected: f64,
    pub found: f64,
}

/// Copies elements into a buffer.
///
/// # Errors
/// If the lengths differ.
pub(super) fn copy_bytes(bytes: &[u8], memory: &mut [u8]) -> anyhow::Result<()> {
    anyhow::ensure!(
        bytes.len() == memory.len(),
        "{} bytes for a buffer of {}",
        bytes.len(),
        memory.len()
    );
    memory.copy_from_slice(bytes);
    Ok(())
}
