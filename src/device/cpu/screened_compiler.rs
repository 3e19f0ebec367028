//! A GPU's compiler as the CPU's compiler imitates it, for a screen: its macros, and the comparison of what both compile.
//!
//! Runs the preprocessor only. Never decides what a difference means; `eval::screen` does.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::compiler::HostCompiler;
use super::compiler_flags::compile_flags;
use super::diagnostics::first_error_block;
use super::gpu_macros::{GpuMacros, recognises_compiler};
use super::source::text_to_trace;
use super::source_checks::check_source_for_gpu;
use super::toolchain::{Preprocessed, Toolchain};
use crate::base::process::read_output;
use crate::device::source_trace::MarkedSource;
use crate::device::{Build, SourceTrace, TraceDifference};
use crate::kernel::plan::TranslationUnit;

/// How long a compiler may take to list its macros.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// The GPU's compiler for a screen.
pub(super) struct ScreenedCompiler {
    macros: GpuMacros,
    /// The macros that the C++ compiler defines by itself, in any build.
    predefined: BTreeSet<String>,
}

impl ScreenedCompiler {
    pub(super) fn new(compiler: &HostCompiler, macros: GpuMacros) -> anyhow::Result<Self> {
        let mut predefined = BTreeSet::new();
        for build in [Build::Fast, Build::Bounds, Build::Race] {
            let mut command = Command::new(&compiler.path);
            command.args(compile_flags(build, build == Build::Fast));
            command.args(["-dM", "-E", "-x", "c++", "/dev/null"]);
            match read_output(&mut command, LIST_LIMIT) {
                Ok(list) => predefined.extend(list.lines().filter_map(defined_name)),
                // It cannot make the other builds.
                Err(error) if build == Build::Fast => {
                    return Err(error).context("failed to list the macros of the C++ compiler");
                }
                Err(_) => {}
            }
        }
        Ok(Self { macros, predefined })
    }

    /// Directives in front of a source that give it the macros of the GPU's compiler.
    pub(super) fn directives(&self, unit: &TranslationUnit) -> String {
        self.macros.directives(unit, &self.predefined)
    }

    /// The first difference from what the GPU's compiler compiles, by its trace.
    pub(super) fn trace_difference(
        &self,
        toolchain: &Toolchain,
        unit: &TranslationUnit,
        trace: &SourceTrace,
    ) -> anyhow::Result<Option<TraceDifference>> {
        let checked = check_source_for_gpu(&unit.source);
        let marked = MarkedSource::new(&unit.source, &checked.text);
        let text = text_to_trace(unit, &checked, &marked, &self.directives(unit));
        let is_known = |name: &str| !recognises_compiler(name, &self.predefined);
        Ok(match toolchain.preprocess(&text, unit)? {
            Preprocessed::Text(output) => trace.difference(&marked.read(&output), is_known),
            // The GPU's compiler has accepted the source.
            Preprocessed::Errors(log) => Some(TraceDifference {
                line: first_error_block(&log).and_then(|error| error.lines.first().copied()),
                name: None,
            }),
        })
    }
}

/// The name in a line such as `#define __INT_MAX__ 0x7fffffff`.
fn defined_name(line: &str) -> Option<String> {
    let definition = line.strip_prefix("#define ")?;
    let is_end = |letter: char| letter == ' ' || letter == '(';
    definition.split(is_end).next().map(str::to_owned)
}
