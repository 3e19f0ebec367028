//! The program from outside: results, exit codes, error messages, help.

#![expect(clippy::print_stdout, reason = "a skipped test says so")]

mod config;
mod errors;
mod eval;
mod gpu;
mod help;
mod runs;
mod tasks;
mod workspace;
