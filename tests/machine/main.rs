//! Tests that may lack something on this machine: a GPU, NVRTC, NumPy, a sandbox, a third-party server. See `harness`.

mod agreement;
#[path = "../support/agreement.rs"]
#[expect(dead_code, reason = "the other suite uses more of it")]
mod agreement_rules;
mod browser;
#[path = "../support/code_cases.rs"]
mod code_cases;
mod compile_cuda;
mod cuda_device;
mod datasets;
mod docs;
mod exports;
mod gpu;
mod gpu_mode;
mod gpu_racing;
mod harness;
#[path = "../support/header_cases.rs"]
mod header_cases;
mod honest_gpu;
mod hostile_code;
mod kernelbench;
mod nvrtc;
mod oracles;
#[path = "../support/program.rs"]
#[expect(dead_code, reason = "the other suite uses more of it")]
mod program;
mod prompts;
mod python_baselines;
mod python_oracle;
mod races;
mod sandbox;
mod shell;
mod spaces;
mod stored_inputs;
#[path = "../support/stored_task.rs"]
mod stored_task;
mod third_party;
mod torch_functions;

fn main() -> std::process::ExitCode {
    harness::prepare_environment();
    // Long tests start first, so that no core waits for one of them at the end.
    let mut tests = docs::page_tests();
    tests.extend(harness::listed(&[
        races::TESTS,
        third_party::TESTS,
        nvrtc::TESTS,
        agreement::TESTS,
        compile_cuda::TESTS,
        exports::TESTS,
        hostile_code::TESTS,
        oracles::TESTS,
        python_baselines::TESTS,
        python_oracle::TESTS,
        datasets::TESTS,
        kernelbench::TESTS,
        torch_functions::TESTS,
        gpu_mode::TESTS,
        sandbox::TESTS,
        spaces::TESTS,
        shell::TESTS,
        gpu::TESTS,
        gpu_racing::TESTS,
        honest_gpu::TESTS,
        stored_inputs::TESTS,
        cuda_device::TESTS,
        prompts::TESTS,
        browser::TESTS,
        docs::TESTS,
    ]));
    tests.extend(prompts::example_tests());
    harness::run(tests)
}
