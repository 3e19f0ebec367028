//! Writes a plan to the control page: buffers, launches and arguments, as the runtime reads them.
//!
//! The plan must be within the page's limits (`limits`).

use super::control_page::{
    ARGUMENT_BUFFER, ARGUMENT_BYTES, BUFFER_READ_ONLY, BUFFER_UNWRITTEN, BUFFER_ZERO,
    CONTROL_MAGIC, CONTROL_VERSION, ControlArgument, ControlBuffer, ControlLaunch, ControlPage,
};
use super::layout::BufferLayout;
use crate::device::numerics;
use crate::kernel::plan::{Argument, BufferRole, LaunchPlan};

pub(super) fn encode_plan(
    control: &mut ControlPage,
    plan: &LaunchPlan,
    layouts: &[BufferLayout],
    threads: u32,
) {
    control.magic = CONTROL_MAGIC;
    control.version = CONTROL_VERSION;
    control.threads = threads;
    control.buffer_count = layouts.len() as u32;
    control.launch_count = plan.launches.len() as u32;
    for ((slot, layout), buffer) in control.buffers.iter_mut().zip(layouts).zip(&plan.buffers) {
        *slot = encode_buffer(layout, &buffer.role);
    }
    let mut next = 0;
    for (slot, launch) in control.launches.iter_mut().zip(&plan.launches) {
        *slot = ControlLaunch {
            entry: launch.entry_point as u32,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared,
            first_argument: next as u32,
            argument_count: launch.arguments.len() as u32,
            flags: 0,
            reserved: 0,
        };
        for (slot, argument) in control.arguments[next..].iter_mut().zip(&launch.arguments) {
            *slot = encode_argument(argument);
        }
        next += launch.arguments.len();
    }
    control.argument_count = next as u32;
}

fn encode_buffer(layout: &BufferLayout, role: &BufferRole) -> ControlBuffer {
    ControlBuffer {
        file_offset: layout.mapping.start as u64,
        mapped_bytes: layout.mapping.len() as u64,
        data_offset: (layout.data.start - layout.mapping.start) as u64,
        data_bytes: layout.data.len() as u64,
        address: 0,
        flags: match role {
            BufferRole::Scratch { zero: true } => BUFFER_ZERO,
            BufferRole::Scratch { zero: false } | BufferRole::Output => BUFFER_UNWRITTEN,
            BufferRole::Input => BUFFER_READ_ONLY,
            BufferRole::InPlace => 0,
        },
        reserved: 0,
    }
}

fn encode_argument(argument: &Argument) -> ControlArgument {
    match argument {
        Argument::Buffer(index) => ControlArgument {
            kind: ARGUMENT_BUFFER,
            buffer: *index as u32,
            bytes: 0,
        },
        other => ControlArgument {
            kind: ARGUMENT_BYTES,
            buffer: 0,
            bytes: numerics::argument_word(*other),
        },
    }
}
