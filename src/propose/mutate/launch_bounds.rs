//! `launch_bounds`: how many registers a thread may have.

use tree_sitter::Node;

use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::LaunchHeader;
use crate::kernel::syntax::{FunctionNode, descendants, line_of, named_children};
use crate::propose::source_edits::SourceEdits;

/// Says how many threads a block has, and how many blocks must fit on a multiprocessor at once.
///
/// ```text
/// block: 128          __global__ void f(…)
/// ```
/// becomes
/// ```text
/// block: 128          __global__ void __launch_bounds__(128, 8) f(…)
/// ```
///
/// Legal if no launch of the function has more threads in a block. This always holds: the number is taken from the header, and a bound that
/// the code already has is kept.
///
/// With more blocks more loads are in flight, but each thread has fewer registers, and a spilled register costs more than that gains.
/// Without a bound the compiler allows for 1,024 threads, and no thread gets more than 64 registers.
pub(super) struct LaunchBounds;

/// Threads that must fit on a multiprocessor at once. A GPU with 65,536 registers then has 128, 64 or 32 for each.
const RESIDENT_THREADS: [i64; 3] = [512, 1024, 2048];

/// The most threads of a block.
const MAX_THREADS: i64 = 1024;

impl Transformation for LaunchBounds {
    fn name(&self) -> &'static str {
        "launch_bounds"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        (subject.functions().iter())
            .filter(|function| function.is_global)
            .flat_map(|function| bounds_of(subject, function))
            .collect()
    }
}

/// The bounds that a function may get instead of its own.
fn bounds_of(subject: &Subject<'_>, function: &FunctionNode<'_>) -> Vec<RewriteSite> {
    let Some(block) = BlockThreads::of(subject, function) else {
        return Vec::new();
    };
    let own = descendants(function.node)
        .take_while(|node| node.start_byte() < function.body.start_byte())
        .find(|node| node.kind() == "launch_bounds");
    let arguments: Vec<_> = own.into_iter().flat_map(named_children).collect();
    // A cluster size or anything else is left alone.
    if arguments.len() > 2 {
        return Vec::new();
    }
    let threads = (arguments.first()).map_or(block.text.as_str(), |threads| subject.text(*threads));
    let blocks = (RESIDENT_THREADS.into_iter())
        .filter(|resident| block.most <= *resident)
        .map(|resident| (format!("{resident} threads"), Some(block.blocks(resident))));
    let name = subject.syntax.function_name(function);
    (std::iter::once(("no register cap".to_owned(), None)).chain(blocks))
        .filter(|(_, blocks)| {
            let current = arguments.get(1).map(|blocks| subject.text(*blocks));
            own.is_none() || current != blocks.as_deref()
        })
        .map(|(label, blocks)| RewriteSite {
            label: format!("{name} {label}"),
            line: line_of(function.declarator),
            edits: set_bounds(function, own, threads, blocks.as_deref()),
        })
        .collect()
}

fn set_bounds(
    function: &FunctionNode<'_>,
    own: Option<Node<'_>>,
    threads: &str,
    blocks: Option<&str>,
) -> SourceEdits {
    let blocks = blocks.map_or(String::new(), |blocks| format!(", {blocks}"));
    let bounds = format!("__launch_bounds__({threads}{blocks})");
    let mut edits = SourceEdits::new();
    match own {
        Some(own) => edits.replace(own.byte_range(), bounds),
        None => edits.insert(function.declarator.start_byte(), format!("{bounds} ")),
    };
    edits
}

/// The threads in a block of a function's launches.
struct BlockThreads {
    /// As a C++ expression.
    text: String,
    /// The number, if no tunable changes it.
    number: Option<i64>,
    /// The largest number for any values of the tunables.
    most: i64,
}

impl BlockThreads {
    /// `None` if it is unknown, or if launches differ.
    fn of(subject: &Subject<'_>, function: &FunctionNode<'_>) -> Option<Self> {
        let launches: Vec<&LaunchHeader> = (subject.launches_of(function).into_iter())
            .map(|index| &subject.header.launches[index])
            .collect();
        let sizes = |launch: &LaunchHeader| -> Vec<String> {
            (launch.block.iter())
                .map(|size| size.expression.text().to_owned())
                .collect()
        };
        let first = sizes(launches.first()?);
        let is_same = launches.iter().all(|launch| sizes(launch) == first);
        let is_cpp = first.iter().all(|size| is_same_in_cpp(subject, size));
        if !is_same || !is_cpp {
            return None;
        }
        let counts = subject.at_all_points(&|value_of| {
            let sizes = launches[0].block.iter();
            let sizes: Option<Vec<i64>> = sizes
                .map(|size| size.expression.evaluate(value_of).ok())
                .collect();
            sizes?.into_iter().try_fold(1_i64, i64::checked_mul)
        })?;
        let (least, most) = (*counts.iter().min()?, *counts.iter().max()?);
        if least < 1 || most > MAX_THREADS {
            return None;
        }
        let factors: Vec<_> = match &first[..] {
            [only] => vec![only.clone()],
            several => (several.iter().filter(|size| *size != "1"))
                .map(|size| in_parentheses(size))
                .collect(),
        };
        Some(Self {
            text: if least == most {
                most.to_string()
            } else {
                factors.join(" * ")
            },
            number: (least == most).then_some(most),
            most,
        })
    }

    /// The blocks that hold `resident` threads, as a C++ expression.
    fn blocks(&self, resident: i64) -> String {
        match self.number {
            Some(number) => (resident / number).to_string(),
            None => format!("{resident} / {}", in_parentheses(&self.text)),
        }
    }
}

fn in_parentheses(text: &str) -> String {
    let is_word = text
        .chars()
        .all(|letter| letter.is_alphanumeric() || letter == '_');
    if is_word {
        text.to_owned()
    } else {
        format!("({text})")
    }
}

/// Whether an expression of the header means the same in C++: products and sums of tunables and numbers.
fn is_same_in_cpp(subject: &Subject<'_>, text: &str) -> bool {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_ ()*+".contains(letter);
    let is_other = |letter: char| !letter.is_alphanumeric() && letter != '_';
    text.chars().all(is_plain)
        && !text.contains("**")
        && (text.split(is_other).filter(|word| !word.is_empty()))
            .all(|word| word.parse::<i64>().is_ok() || subject.header.tunables.contains_key(word))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes_in_source, kernel, site_labels};
    use super::*;

    const BODY: &str = "    output[blockIdx.x * 128 + threadIdx.x] = x[0];\n";

    #[test]
    fn bounds_are_added_from_the_header() {
        insta::assert_snapshot!(site_labels(&LaunchBounds, BODY), @r#"
        softmax no register cap (line 8)
        softmax 512 threads (line 8)
        softmax 1024 threads (line 8)
        softmax 2048 threads (line 8)
        "#);
        insta::assert_snapshot!(changes_in_source(&LaunchBounds, &kernel(BODY), "softmax 1024"), @r#"
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        + __global__ void __launch_bounds__(128, 8) softmax(const float* x, float* output, int rows, int columns) {
        "#);
        insta::assert_snapshot!(changes_in_source(&LaunchBounds, &kernel(BODY), "softmax no register cap"), @r#"
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        + __global__ void __launch_bounds__(128) softmax(const float* x, float* output, int rows, int columns) {
        "#);
    }

    #[test]
    fn bounds_follow_tunables_and_keep_the_number_of_threads() {
        let source = kernel(BODY)
            .replace("block: 128", "block: WIDTH, ROWS")
            .replace("*/", "tunables:\n  WIDTH: [64, 32]\n  ROWS: [4, 8]\n*/")
            .replace(
                "void softmax",
                "void __launch_bounds__(WIDTH * ROWS) softmax",
            );
        insta::assert_snapshot!(changes_in_source(&LaunchBounds, &source, "softmax 1024"), @r#"
        - __global__ void __launch_bounds__(WIDTH * ROWS) softmax(const float* x, float* output, int rows, int columns) {
        + __global__ void __launch_bounds__(WIDTH * ROWS, 1024 / (WIDTH * ROWS)) softmax(const float* x, float* output, int rows, int columns) {
        "#);
    }

    #[test]
    fn blocks_of_unknown_size_get_no_bounds() {
        let task = super::super::testing::task();
        for (old, new) in [
            ("block: 128", "block: min(columns, 128)"),
            ("block: 128", "block: 64 // 2"),
            ("kernel: softmax", "kernel: other"),
        ] {
            let source = kernel(BODY).replace(old, new);
            let sites = Subject::new(&source, &task).map(|subject| LaunchBounds.sites(&subject));
            assert!(sites.is_none_or(|sites| sites.is_empty()), "{new}");
        }
    }
}
