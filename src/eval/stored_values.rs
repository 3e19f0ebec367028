//! The values of tensors in files, read once for all kernels that are open at the same time.
//!
//! A kernel that is closed frees them. Decides nothing about where values come from: `case` does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use crate::task::StoredTensor;

/// A tensor: its file, and its place there.
type TensorPlace = (PathBuf, u64);

/// The tensors that some open kernel has. Clones share them.
#[derive(Clone, Default)]
pub(super) struct StoredValues {
    read: Rc<RefCell<HashMap<TensorPlace, Weak<Vec<u8>>>>>,
}

impl StoredValues {
    /// The values of a tensor.
    ///
    /// # Errors
    /// If its file has changed or cannot be read.
    pub(super) fn get(&self, tensor: &StoredTensor) -> anyhow::Result<Rc<Vec<u8>>> {
        let place = (tensor.file.clone(), tensor.start);
        if let Some(values) = self.read.borrow().get(&place).and_then(Weak::upgrade) {
            return Ok(values);
        }
        let values = Rc::new(tensor.read()?);
        let mut read = self.read.borrow_mut();
        read.retain(|_, values| values.strong_count() > 0);
        read.insert(place, Rc::downgrade(&values));
        Ok(values)
    }
}
