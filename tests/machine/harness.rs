//! A test harness for tests that may lack something on this machine: a GPU, NVRTC, NumPy, a third-party server.
//!
//! Such a test is reported as ignored, with the reason, instead of passed. A module lists its tests with `tests!`; a `#[test]`
//! here would not run, and `tests/tidy` refuses it. `KFORGE_TEST_REQUIRE` names requirements, separated by commas, that must be
//! met: a test that lacks one of them fails. `.ci/run` sets it to what it installs.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Why a test cannot run on this machine.
#[derive(Debug)]
pub(crate) struct Missing {
    /// The name that `KFORGE_TEST_REQUIRE` uses, such as `nvrtc`.
    requirement: String,
    reason: String,
}

impl Missing {
    pub(crate) fn new(requirement: impl Into<String>, reason: impl ToString) -> Self {
        Self {
            requirement: requirement.into(),
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

/// Passes the Python of `KFORGE_TEST_PYTHON` on to the compiler of this process and to every child process.
pub(crate) fn prepare_environment() {
    if std::env::var_os("KFORGE_PYTHON").is_none()
        && let Some(python) = std::env::var_os("KFORGE_TEST_PYTHON")
    {
        // SAFETY: `main` calls this first, before any thread exists.
        unsafe { std::env::set_var("KFORGE_PYTHON", python) };
    }
}

/// One test at a time uses the GPU: some observe all of its memory and processes.
pub(crate) fn exclusive_gpu() -> MutexGuard<'static, ()> {
    static GPU: Mutex<()> = Mutex::new(());
    GPU.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A test with the name that `cargo test` shows.
pub(crate) fn trial(
    name: impl Into<String>,
    test: impl FnOnce() -> TestResult + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(missing) if missing.is_required() => Err(Failed::from(format!(
            "`{}` is required by KFORGE_TEST_REQUIRE: {}",
            missing.requirement, missing.reason
        ))),
        Err(missing) => Ok(Completion::ignored_with(missing.reason)),
    })
}

/// The tests of the modules. Their names start with the module's.
pub(crate) fn listed(modules: &[&'static [NamedTest]]) -> Vec<Trial> {
    let tests = modules.iter().copied().flatten();
    tests
        .map(|(name, test)| trial(name.split_once("::").map_or(*name, |(_, name)| name), test))
        .collect()
}

/// Runs tests with the options of `cargo test`.
pub(crate) fn run(tests: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests wait for other processes, but for less of their time than those of `tests/support/test_threads.rs`, and more of them time kernels.
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    arguments.test_threads.get_or_insert(2 * cores);
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// The list of a module's tests: `tests!(first_test, module::second_test)`.
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::NamedTest] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),*];
    };
}
pub(crate) use tests;
