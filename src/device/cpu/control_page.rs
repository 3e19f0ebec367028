//! The control page, field by field as `runtime/control.h` has it.

pub(super) const CONTROL_MAGIC: u32 = 0x6b66_6f72;
pub(super) const CONTROL_VERSION: u32 = 2;
pub(super) const MAX_BUFFERS: usize = 64;
pub(super) const MAX_LAUNCHES: usize = 32;
pub(super) const MAX_ARGUMENTS: usize = 1024;
/// Unmapped bytes on both sides of every buffer's mapping in the child.
pub(super) const GUARD_BYTES: u64 = 1 << 20;
/// The exit code of a process that found a fault itself.
pub(super) const FAULT_EXIT_CODE: i32 = 70;
/// The kind of fault that is the machine's rather than the kernel's, if it is true.
pub(super) const FAULT_PROTOCOL: u32 = 5;
pub(super) const MAX_SITES: usize = 256;
pub(super) const BUFFER_ZERO: u32 = 1;
pub(super) const BUFFER_READ_ONLY: u32 = 2;
pub(super) const BUFFER_UNWRITTEN: u32 = 4;
pub(super) const ACCESS_WRITE: u32 = 1;
pub(super) const ACCESS_ATOMIC: u32 = 2;
pub(super) const ACCESS_SHARED: u32 = 4;
pub(super) const ARGUMENT_BUFFER: u32 = 0;
pub(super) const ARGUMENT_BYTES: u32 = 1;

#[repr(C)]
pub(super) struct ControlPage {
    pub(super) magic: u32,
    pub(super) version: u32,
    pub(super) threads: u32,
    pub(super) buffer_count: u32,
    pub(super) launch_count: u32,
    pub(super) argument_count: u32,
    pub(super) seed: u64,
    pub(super) buffers: [ControlBuffer; MAX_BUFFERS],
    pub(super) launches: [ControlLaunch; MAX_LAUNCHES],
    pub(super) arguments: [ControlArgument; MAX_ARGUMENTS],
    /// Written by the child: untrusted.
    pub(super) fault: ControlFault,
    /// As above.
    pub(super) sites: [ControlSite; MAX_SITES],
    pub(super) site_count: u32,
    pub(super) reserved: u32,
    pub(super) sampled_threads: u64,
    pub(super) total_threads: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlBuffer {
    pub(super) file_offset: u64,
    pub(super) mapped_bytes: u64,
    pub(super) data_offset: u64,
    pub(super) data_bytes: u64,
    /// Written by the child: where the data starts there.
    pub(super) address: u64,
    pub(super) flags: u32,
    pub(super) reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlLaunch {
    pub(super) entry: u32,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) first_argument: u32,
    pub(super) argument_count: u32,
    pub(super) flags: u32,
    pub(super) reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlArgument {
    pub(super) kind: u32,
    pub(super) buffer: u32,
    pub(super) bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlFault {
    pub(super) kind: u32,
    pub(super) signal: u32,
    pub(super) address: u64,
    pub(super) block: [u32; 3],
    pub(super) thread: [u32; 3],
    pub(super) message: [u8; 256],
    pub(super) site: u64,
    pub(super) other_site: u64,
    pub(super) other_block: [u32; 3],
    pub(super) other_thread: [u32; 3],
    pub(super) line: u32,
    pub(super) bytes: u32,
    pub(super) flags: u32,
    pub(super) other_flags: u32,
    pub(super) value: u64,
    pub(super) other_value: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlSite {
    pub(super) site: u64,
    pub(super) flags: u32,
    pub(super) bytes: u32,
    pub(super) lanes: u64,
    pub(super) sampled_lanes: u64,
    pub(super) requests: u64,
    pub(super) sectors: u64,
    pub(super) min_sectors: u64,
    pub(super) strided: u64,
}

// The other side asserts the same.
const _: () = assert!(
    size_of::<ControlBuffer>() == 48
        && size_of::<ControlLaunch>() == 48
        && size_of::<ControlArgument>() == 16
);
const _: () = assert!(size_of::<ControlFault>() == 368 && size_of::<ControlSite>() == 64);
const _: () =
    assert!(size_of::<ControlPage>() == 32 + 48 * 64 + 48 * 32 + 16 * 1024 + 368 + 64 * 256 + 24);
