//! Tests that may lack something on this machine: a GPU, NVRTC, NumPy, a sandbox, a third-party server. See `harness`.

mod compile_cuda;
mod cuda_device;
mod docs;
mod gpu;
mod harness;
mod nvrtc;
mod oracles;
#[path = "../support/program.rs"]
#[expect(dead_code, reason = "the other suite uses more of it")]
mod program;
mod prompts;
mod races;
mod sandbox;
mod third_party;

fn main() -> std::process::ExitCode {
    harness::prepare_environment();
    let mut tests = harness::listed(&[
        compile_cuda::TESTS,
        cuda_device::TESTS,
        gpu::TESTS,
        nvrtc::TESTS,
        oracles::TESTS,
        prompts::TESTS,
        races::TESTS,
        sandbox::TESTS,
        third_party::TESTS,
        docs::TESTS,
    ]);
    tests.extend(prompts::example_tests());
    tests.extend(docs::page_tests());
    harness::run(tests)
}
