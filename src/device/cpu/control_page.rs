//! The control page: the memory through which the judge and a candidate's process exchange launches, faults and counts.
//!
//! Mirrors `runtime/control.h` field by field; a test compares every constant with that file. Everything that the process
//! writes here is untrusted, because candidate code shares its address space.

pub(super) const CONTROL_MAGIC: u32 = 0x6b66_6f72;
pub(super) const CONTROL_VERSION: u32 = 4;
/// The file descriptor on which the process receives the shared memory.
pub(super) const CONTROL_DESCRIPTOR: i32 = 3;
pub(super) const MAX_BUFFERS: usize = 64;
pub(super) const MAX_LAUNCHES: usize = 32;
pub(super) const MAX_ARGUMENTS: usize = 1024;
pub(super) const MAX_SITES: usize = 256;
/// Unmapped bytes before and after the mapping of every buffer in the process.
pub(super) const GUARD_BYTES: u64 = 1 << 20;
/// The exit code of a process that detected a fault itself.
pub(super) const FAULT_EXIT_CODE: i32 = 70;
pub(super) const BUFFER_ZERO: u32 = 1;
pub(super) const BUFFER_READ_ONLY: u32 = 2;
pub(super) const BUFFER_UNWRITTEN: u32 = 4;
pub(super) const ACCESS_WRITE: u32 = 1;
pub(super) const ACCESS_ATOMIC: u32 = 2;
pub(super) const ACCESS_SHARED: u32 = 4;
/// The bit of the seed that chooses the value of a lane that takes no part in a shuffle.
pub(super) const SEED_ABSENT_BIT: u64 = 1 << 63;
pub(super) const ABSENT_EXITED: u32 = 1;
pub(super) const ARGUMENT_BUFFER: u32 = 0;
pub(super) const ARGUMENT_BYTES: u32 = 1;

/// What a process detected: `FaultKind` of `runtime/control.h`, with the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum FaultKind {
    None = 0,
    Signal = 1,
    SyncError = 2,
    StackOverflow = 3,
    LimitExceeded = 4,
    /// The machine lacks something, or the control page is broken: not the kernel's fault, if it is true.
    Protocol = 5,
    SharedBounds = 6,
    OutOfBounds = 7,
    Misaligned = 8,
    UninitializedRead = 9,
    Race = 10,
    UndefinedBehavior = 11,
    InputMutated = 12,
    /// A thread reached code that this device cannot run.
    Unsupported = 13,
    /// A thread reached code that no kernel may have.
    Rejected = 14,
}

impl FaultKind {
    const ALL: [Self; 15] = [
        Self::None,
        Self::Signal,
        Self::SyncError,
        Self::StackOverflow,
        Self::LimitExceeded,
        Self::Protocol,
        Self::SharedBounds,
        Self::OutOfBounds,
        Self::Misaligned,
        Self::UninitializedRead,
        Self::Race,
        Self::UndefinedBehavior,
        Self::InputMutated,
        Self::Unsupported,
        Self::Rejected,
    ];
}

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
    /// Written by the process, like everything below: untrusted.
    pub(super) fault: ControlFault,
    pub(super) sites: [ControlSite; MAX_SITES],
    pub(super) site_count: u32,
    /// Written by the judge: whether threads sleep while they wait.
    pub(super) waits_asleep: u32,
    pub(super) sampled_threads: u64,
    pub(super) total_threads: u64,
    pub(super) absent_read: ControlAbsentRead,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlBuffer {
    pub(super) file_offset: u64,
    pub(super) mapped_bytes: u64,
    pub(super) data_offset: u64,
    pub(super) data_bytes: u64,
    /// Written by the process: the address of the data there.
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

/// A shuffle that read a lane which took no part.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ControlAbsentRead {
    pub(super) site: u64,
    pub(super) block: [u32; 3],
    pub(super) thread: [u32; 3],
    pub(super) lane: u32,
    /// 0: there was no such shuffle.
    pub(super) reason: u32,
}

impl ControlFault {
    /// The kind of the record. `None` if the process wrote a number that is not a kind.
    pub(super) fn fault_kind(&self) -> Option<FaultKind> {
        let mut kinds = FaultKind::ALL.into_iter();
        kinds.find(|kind| *kind as u32 == self.kind)
    }

    /// Whether the process wrote a record.
    pub(super) fn is_present(&self) -> bool {
        self.kind != FaultKind::None as u32
    }
}

// `runtime/control.h` asserts the same sizes.
const _: () = assert!(
    size_of::<ControlBuffer>() == 48
        && size_of::<ControlLaunch>() == 48
        && size_of::<ControlArgument>() == 16
);
const _: () = assert!(
    size_of::<ControlFault>() == 368
        && size_of::<ControlSite>() == 64
        && size_of::<ControlAbsentRead>() == 40
);
const _: () = assert!(
    size_of::<ControlPage>() == 32 + 48 * 64 + 48 * 32 + 16 * 1024 + 368 + 64 * 256 + 24 + 40
);

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("runtime/control.h");

    /// The value of an integer literal or a shift of two, as the header writes them.
    fn evaluate(expression: &str) -> u64 {
        if let Some((value, shift)) = expression.split_once("<<") {
            return evaluate(value.trim()) << evaluate(shift.trim());
        }
        match expression.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => expression.parse().unwrap(),
        }
    }

    /// The name in the header of a variant such as `SyncError`: `FAULT_SYNC_ERROR`.
    fn header_name(kind: FaultKind) -> String {
        let mut name = String::from("FAULT");
        for letter in format!("{kind:?}").chars() {
            if letter.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn fault_kinds_match_the_header() {
        let start = HEADER.find("enum FaultKind").unwrap();
        let body = &HEADER[start..][..HEADER[start..].find("};").unwrap()];
        let in_header: Vec<_> = (body.lines())
            .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
            .map(|(name, value)| (name.to_owned(), evaluate(value)))
            .collect();
        let here = FaultKind::ALL.map(|kind| (header_name(kind), kind as u64));
        assert_eq!(in_header, here);
    }

    #[test]
    fn constants_match_the_header() {
        let mut in_header: Vec<_> = (HEADER.lines())
            .filter_map(|line| line.strip_prefix("constexpr ")?.split_once(' '))
            .filter_map(|(_, rest)| rest.split_once(';')?.0.split_once(" = "))
            .map(|(name, value)| (name, evaluate(value)))
            .collect();
        let mut here = vec![
            ("CONTROL_MAGIC", CONTROL_MAGIC.into()),
            ("CONTROL_VERSION", CONTROL_VERSION.into()),
            ("CONTROL_DESCRIPTOR", CONTROL_DESCRIPTOR as u64),
            ("MAX_BUFFERS", MAX_BUFFERS as u64),
            ("MAX_LAUNCHES", MAX_LAUNCHES as u64),
            ("MAX_ARGUMENTS", MAX_ARGUMENTS as u64),
            ("MAX_SITES", MAX_SITES as u64),
            ("GUARD_BYTES", GUARD_BYTES),
            ("FAULT_EXIT_CODE", FAULT_EXIT_CODE as u64),
            ("BUFFER_ZERO", BUFFER_ZERO.into()),
            ("BUFFER_READ_ONLY", BUFFER_READ_ONLY.into()),
            ("BUFFER_UNWRITTEN", BUFFER_UNWRITTEN.into()),
            ("ACCESS_WRITE", ACCESS_WRITE.into()),
            ("ACCESS_ATOMIC", ACCESS_ATOMIC.into()),
            ("ACCESS_SHARED", ACCESS_SHARED.into()),
            ("SEED_ABSENT_BIT", SEED_ABSENT_BIT),
            ("ABSENT_EXITED", ABSENT_EXITED.into()),
            ("ARGUMENT_BUFFER", ARGUMENT_BUFFER.into()),
            ("ARGUMENT_BYTES", ARGUMENT_BYTES.into()),
            // Used by the runtime only.
            ("LAUNCH_COOPERATIVE", 1),
            ("ACCESS_VOLATILE", 8),
            ("ABSENT_UNNAMED", 2),
        ];
        in_header.sort();
        here.sort();
        assert_eq!(in_header, here);
    }
}
