//! The program from outside: results, exit codes, error messages, help.

mod config;
mod continuing;
mod errors;
mod eval;
mod export;
mod gpu;
mod grid;
mod headers;
mod help;
mod json;
mod lessons;
mod runs;
mod scripting;
mod signals;
mod streams;
mod tasks;
mod yardstick;
