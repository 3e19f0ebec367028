//! Finds global names of a compiled kernel that its process has already: functions and variables of the C library and of the runtime.
//!
//! The linker would take the kernel's own. So a kernel that defines `memset` would do a part of the runtime's work itself, or leave it out,
//! within the clock. Reads object files; runs nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;
use object::{Object, ObjectSymbol};

use super::compiler_flags::runtime_object;
use super::runtime_build::empty_program;
use crate::device::{Build, Refusal};
use crate::kernel::lexer::{LexemeKind, lex};
use crate::verdict::Status;

/// The beginnings of names that a source cannot have as they are: those of C++ functions, and of the runtime.
const OTHER_NAMES: [&str; 2] = ["_Z", "kforge_"];

/// The names that a kernel may not define.
#[derive(Debug)]
pub(super) struct TakenNames {
    /// Objects of the runtime. Their undefined names are those that they take from the C library.
    objects: [PathBuf; 2],
    /// A program without a kernel.
    program: PathBuf,
    names: OnceLock<HashSet<String>>,
}

impl TakenNames {
    /// Those of the runtime in this folder.
    pub(super) fn of_runtime(runtime: &Path) -> Self {
        Self {
            objects: [runtime_object(Build::Fast).0, "start.o"].map(|name| runtime.join(name)),
            program: empty_program(runtime),
            names: OnceLock::new(),
        }
    }

    /// The refusal of a compiled kernel that defines such a name.
    pub(super) fn refuse(&self, unit: &Path, source: &str) -> anyhow::Result<Option<Refusal>> {
        let taken = match self.names.get() {
            Some(taken) => taken,
            None => {
                let found = self.read_names()?;
                self.names.get_or_init(|| found)
            }
        };
        let data = read(unit)?;
        let file =
            object::File::parse(&*data).context("the compiler wrote an invalid object file")?;
        let defined = file
            .symbols()
            .filter(|symbol| symbol.is_global() && !symbol.is_undefined());
        let mut names = defined.filter_map(|symbol| symbol.name().ok());
        let Some(name) = names.find(|name| taken.contains(*name)) else {
            return Ok(None);
        };
        let reason = format!(
            "`{name}` is a name of the C library that the kernel's process needs: give your own another name"
        );
        Ok(Some(match first_line(source, name) {
            Some(line) => Refusal::at_line(Status::CompileError, line, &reason),
            None => Refusal::new(Status::CompileError, reason.as_str()),
        }))
    }

    /// What the runtime takes from the C library, and what a program without a kernel defines. A weak name of the library is free, unless the
    /// runtime uses it: the library itself never does.
    fn read_names(&self) -> anyhow::Result<HashSet<String>> {
        let mut taken = HashSet::new();
        for path in self.objects.iter().chain([&self.program]) {
            let data = read(path)?;
            let file = object::File::parse(&*data)
                .with_context(|| format!("`{}` is invalid", path.display()))?;
            let is_program = path == &self.program;
            let symbols = file.symbols().filter(|symbol| {
                let is_strong = symbol.is_global() && !symbol.is_weak();
                symbol.is_undefined() || is_program && is_strong
            });
            let names = symbols.filter_map(|symbol| symbol.name().ok());
            let names = names.filter(|name| !name.is_empty() && !is_other(name));
            taken.extend(names.map(str::to_owned));
        }
        Ok(taken)
    }
}

fn is_other(name: &str) -> bool {
    OTHER_NAMES.iter().any(|start| name.starts_with(start))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))
}

/// The first line of a source that has this name.
fn first_line(source: &str, name: &str) -> Option<u32> {
    let mut lexemes = lex(source).into_iter();
    let found = lexemes.find(|lexeme| {
        let text = &source[lexeme.range.clone()];
        match lexeme.kind {
            LexemeKind::Identifier => text == name,
            LexemeKind::Directive => text.contains(name),
            _ => false,
        }
    });
    found.map(|lexeme| lexeme.line)
}
