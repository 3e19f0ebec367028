//! Exchanges the contents of buffers with another process on the same GPU, through memory of that process.
//!
//! That memory is mapped here only while bytes are copied, so no candidate can ever reach it. Never launches a kernel.

use std::ffi::c_char;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::bound_kernel::CudaBoundKernel;
use super::gpu::{DriverError, Gpu, call};
use crate::device::{ExchangedBuffers, Transfer, TransferDirection};

/// Memory of another process, mapped for as long as this value lives.
struct ForeignMemory(CUdeviceptr);

impl ForeignMemory {
    /// `handle`: what `cuIpcGetMemHandle` has given the other process.
    fn open(handle: &[u8; 64]) -> Result<Self, DriverError> {
        let handle = sys::CUipcMemHandle {
            reserved: handle.map(|byte| byte as c_char),
        };
        let lazy = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut address = 0;
        call!(cuIpcOpenMemHandle_v2(&raw mut address, handle, lazy))?;
        Ok(Self(address))
    }
}

impl Drop for ForeignMemory {
    fn drop(&mut self) {
        // If this fails, so did a copy, and the next use of the GPU reports it.
        let _ = call!(cuIpcCloseMemHandle(self.0));
    }
}

impl ExchangedBuffers for CudaBoundKernel {
    fn check_memory(&self, memory: &[u8; 64]) -> anyhow::Result<()> {
        self.ensure_usable()?;
        ForeignMemory::open(memory)?;
        Ok(())
    }

    fn exchange(&mut self, copy: u32, transfers: &[Transfer]) -> anyhow::Result<()> {
        self.ensure_usable()?;
        self.memory.show()?;
        let gpu = &self.context.gpu;
        let opened = transfers
            .iter()
            .map(|transfer| ForeignMemory::open(&transfer.memory));
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        for (transfer, foreign) in transfers.iter().zip(&opened) {
            let bytes = self.plan.buffers[transfer.buffer].bytes();
            let own = self.memory.address(transfer.buffer, copy);
            match transfer.direction {
                TransferDirection::ToProcess => copy_on_device(gpu, foreign.0, own, bytes)?,
                TransferDirection::FromProcess => copy_on_device(gpu, own, foreign.0, bytes)?,
            }
        }
        // The memory must stay mapped until then.
        gpu.synchronize()?;
        if !self.launched_copies.contains(&copy) {
            self.launched_copies.push(copy);
        }
        Ok(())
    }
}

/// Queues a copy of `bytes` bytes within the GPU's memory.
fn copy_on_device(
    gpu: &Gpu,
    into: CUdeviceptr,
    from: CUdeviceptr,
    bytes: u64,
) -> Result<(), DriverError> {
    if bytes == 0 {
        return Ok(());
    }
    call!(cuMemcpyDtoDAsync_v2(into, from, bytes as usize, gpu.stream))
}
