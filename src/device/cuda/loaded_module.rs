//! A module that the CUDA driver has loaded from a cubin.

use std::ffi::CString;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys;

use super::gpu::{DriverError, Gpu, call};

/// A loaded module. Dropping it unloads it.
pub(super) struct LoadedModule {
    gpu: Rc<Gpu>,
    pub(super) handle: sys::CUmodule,
}

impl LoadedModule {
    pub(super) fn load(gpu: &Rc<Gpu>, image: &[u8]) -> Result<Self, DriverError> {
        let mut handle = ptr::null_mut();
        call!(cuModuleLoadData(&raw mut handle, image.as_ptr().cast()))?;
        Ok(Self {
            gpu: Rc::clone(gpu),
            handle,
        })
    }

    /// The function with this mangled name.
    pub(super) fn function(&self, name: &str) -> anyhow::Result<sys::CUfunction> {
        let name = CString::new(name)?;
        let mut function = ptr::null_mut();
        call!(cuModuleGetFunction(
            &raw mut function,
            self.handle,
            name.as_ptr()
        ))?;
        Ok(function)
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        if !self.gpu.is_broken() {
            let _ = call!(cuModuleUnload(self.handle));
        }
    }
}
