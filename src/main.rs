//! The `kforge` binary. All code is in the library.

fn main() -> std::process::ExitCode {
    kforge::cli::run()
}
