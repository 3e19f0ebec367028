//! Whether two kernel files are the same candidate: their headers and their lexemes are equal.
//!
//! Comments in the code and white space do not count.

use crate::base::Digest;
use crate::kernel::Kernel;
use crate::kernel::syntax::Syntax;
use crate::task::Task;

/// The identity of any text.
pub(in crate::propose) fn source_identity(source: &str) -> Digest {
    syntax_identity(&Syntax::parse(source))
}

/// The identity of a kernel of the task; `None` if the header does not fit the task or the code has syntax errors.
pub(in crate::propose) fn kernel_identity(source: &str, task: &Task) -> Option<Digest> {
    let syntax = Syntax::parse(source);
    let is_kernel = syntax.is_sound() && Kernel::parse(source, &task.definition).is_ok();
    is_kernel.then(|| syntax_identity(&syntax))
}

fn syntax_identity(syntax: &Syntax<'_>) -> Digest {
    let source = syntax.source();
    let header = source.split("*/").next().unwrap_or_default();
    let joined = |lexemes: Vec<&str>| lexemes.join(" ");
    Digest::of_parts([
        joined(header.split_whitespace().collect()).as_bytes(),
        joined(syntax.lexemes()).as_bytes(),
    ])
}
