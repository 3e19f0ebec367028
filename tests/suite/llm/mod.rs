//! Requests to models, against local servers: a scripted server for every fault. `tests/machine/third_party` asks real ones.

#![expect(clippy::print_stdout, reason = "times and traffic are reported")]

mod faults;
mod keys;
mod programs;
mod requests;
pub(crate) mod server;
mod servers;
mod settings;
mod speed;
mod wire;

use requests::{ask, ask_with, client, expect_reply, origin, request, runtime, settings};
