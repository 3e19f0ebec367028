//! CUDA C++ as the CPU understands it: small device programs run through the real device, and what they give is compared
//! with values that are computed here, independently.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

mod conversions;
mod features;
mod integers;
mod library;
mod run;
