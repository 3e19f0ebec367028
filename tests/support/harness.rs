//! A test harness for suites whose tests may lack something on this machine: a GPU, NVRTC, NumPy, a third-party server.
//!
//! Such a test is reported as ignored, with the reason, instead of passed. The suites set `harness = false` in `Cargo.toml`
//! and list their tests in `main`. `KFORGE_TEST_REQUIRE` names requirements, separated by commas, that must be met:
//! a test that lacks one of them fails. `.ci/run` sets it to what it installs.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Why a test cannot run on this machine.
#[derive(Debug)]
pub(crate) struct Missing {
    /// The name that `KFORGE_TEST_REQUIRE` uses, such as `nvrtc`.
    requirement: &'static str,
    reason: String,
}

impl Missing {
    pub(crate) fn new(requirement: &'static str, reason: impl ToString) -> Self {
        Self {
            requirement,
            reason: reason.to_string().replace("\n\n", "; ").replace('\n', " "),
        }
    }

    fn is_required(&self) -> bool {
        let required = std::env::var("KFORGE_TEST_REQUIRE").unwrap_or_default();
        required
            .split(',')
            .any(|name| name.trim() == self.requirement)
    }
}

/// A test that ran returns `Ok`; a failure is a panic.
pub(crate) type TestResult = Result<(), Missing>;

/// A test and its name.
pub(crate) type NamedTest = (&'static str, fn() -> TestResult);

/// Runs the named tests with the options of `cargo test`.
pub(crate) fn run(tests: &[NamedTest]) -> ExitCode {
    let trials = tests.iter().map(|(name, test)| {
        let test = *test;
        Trial::ignorable_test(*name, move || match test() {
            Ok(()) => Ok(Completion::Completed),
            Err(missing) if missing.is_required() => Err(Failed::from(format!(
                "`{}` is required by KFORGE_TEST_REQUIRE: {}",
                missing.requirement, missing.reason
            ))),
            Err(missing) => Ok(Completion::ignored_with(missing.reason)),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// `main` of a suite: `tests!(first_test, module::second_test)`.
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            harness::run(&[$((stringify!($test), $test)),*])
        }
    };
}
pub(crate) use tests;
