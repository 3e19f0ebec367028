//! What a launch passes and what its kernel takes: the C++ text that compares them, and the refusal for what the compiler finds.
//!
//! Both backends append the same checks (`launch_checks.h`) to a kernel file, and read the same names in the compiler's messages, so
//! a fault has the same status and message on both. Compiles nothing.

use super::refusal::Refusal;
use crate::base::text::did_you_mean;
use crate::kernel::lexer::lex;
use crate::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};
use crate::kernel::syntax::{FunctionNode, Syntax};
use crate::verdict::{Evidence, Status};

/// The class templates that compare arguments with parameters.
pub(super) const LAUNCH_CHECKS: &str = include_str!("cpu/runtime/launch_checks.h");

/// The namespace of `LAUNCH_CHECKS`.
pub(super) const CHECK_NAMESPACE: &str = "kforge_check";

/// The C++ types of the arguments that a launch passes, as a template argument list. They use `LAUNCH_CHECKS`.
pub(super) fn passed_types(entry: &EntryPoint) -> String {
    let types: Vec<_> = (entry.arguments.iter())
        .map(|argument| cpp_type(*argument))
        .collect();
    format!("::kforge_check::types<{}>", types.join(", "))
}

fn cpp_type(argument: ArgumentType) -> String {
    match argument {
        ArgumentType::Pointer(dtype) => format!("{}*", dtype.cuda_type()),
        ArgumentType::Scalar(dtype) => dtype.cuda_type().to_owned(),
        ArgumentType::I32 => "int".to_owned(),
        ArgumentType::U32 => "unsigned".to_owned(),
        ArgumentType::I64 => "long long".to_owned(),
        ArgumentType::Integer => "::kforge_check::IntegerValue".to_owned(),
        // The literal of the smallest number would not fit its type.
        ArgumentType::IntegerConstant(i64::MIN) => {
            "::kforge_check::IntegerConstant<(-9223372036854775807LL - 1)>".to_owned()
        }
        ArgumentType::IntegerConstant(value) => {
            format!("::kforge_check::IntegerConstant<{value}LL>")
        }
        ArgumentType::FloatConstant => "::kforge_check::FloatConstant".to_owned(),
        ArgumentType::BoolConstant => "::kforge_check::BoolConstant".to_owned(),
        ArgumentType::Null => "::kforge_check::NullPointer".to_owned(),
        // The CPU backend refuses it before this is called, and has no such type.
        ArgumentType::TensorMap => "CUtensorMap".to_owned(),
    }
}

/// What a launch passes, in the words of an error message.
fn describe_passed(argument: ArgumentType, name: &str) -> String {
    match argument {
        ArgumentType::Integer => "a whole number".to_owned(),
        ArgumentType::IntegerConstant(value) if name == value.to_string() => {
            "a whole number".to_owned()
        }
        ArgumentType::IntegerConstant(value) => format!("the whole number {value}"),
        ArgumentType::FloatConstant => "a floating-point number".to_owned(),
        ArgumentType::BoolConstant => "`true` or `false`".to_owned(),
        ArgumentType::Null => "a null pointer".to_owned(),
        other => format!("`{}`", cpp_type(other)),
    }
}

/// The refusal for a launch whose function the kernel file does not mention, or declares with `__device__`.
pub(super) fn missing_kernel(unit: &TranslationUnit) -> Option<Refusal> {
    let source = unit.source.as_str();
    let lexemes = lex(source);
    let is_in_code = |name: &str| {
        let mut texts = lexemes.iter().map(|lexeme| &source[lexeme.range.clone()]);
        texts.any(|text| names_and_numbers(text).any(|word| word == name))
    };
    // A macro may paste a name together.
    let is_in_code = |name: &str| is_in_code(name) || source.contains("##");
    let is_marked = is_in_code("__device__");
    unit.entry_points.iter().find_map(|entry| {
        let name = function_name(&entry.expression)?;
        let is_missing = !is_in_code(name);
        if !is_missing && !is_marked {
            return None;
        }
        let syntax = Syntax::parse(source);
        let functions = syntax.functions();
        let problem = if is_missing {
            "is not in the file"
        } else if is_device_function(&syntax, &functions, name) {
            "is a `__device__` function, and a launch needs a `__global__` function"
        } else {
            return None;
        };
        let kernels = functions.iter().filter(|function| function.is_global);
        let kernels: Vec<_> = kernels.map(|kernel| syntax.function_name(kernel)).collect();
        let hint = match kernels.len() {
            0 => String::new(),
            _ => format!(" ({})", did_you_mean(name, kernels)),
        };
        let reason = format!("kernel `{}` {problem}{hint}", entry.expression);
        Some(Refusal::at_line(Status::CompileError, entry.line, reason))
    })
}

/// Whether the file has functions of this name, and all of them are marked `__device__` and not `__global__`.
fn is_device_function(syntax: &Syntax<'_>, functions: &[FunctionNode<'_>], name: &str) -> bool {
    let mut own = functions
        .iter()
        .filter(|function| syntax.function_name(function) == name)
        .peekable();
    own.peek().is_some()
        && own.all(|function| {
            let head = function.node.start_byte()..function.body.start_byte();
            !function.is_global
                && names_and_numbers(&syntax.source()[head]).any(|word| word == "__device__")
        })
}

/// The name of the function in an expression such as `ns::softmax<ROWS>`; `None` if the expression is not a plain name.
fn function_name(expression: &str) -> Option<&str> {
    let name = expression.split('<').next()?.rsplit("::").next()?.trim();
    let is_name = !name.is_empty() && names_and_numbers(name).next() == Some(name);
    is_name.then_some(name)
}

/// The names and numbers of a text.
fn names_and_numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .filter(|word| !word.is_empty())
}

/// The refusal for a kernel whose parameters are not those that the header passes. `log`: the compiler's messages.
///
/// `None` if the first error is another one.
pub(super) fn mismatch_refusal(log: &str, unit: &TranslationUnit) -> Option<Refusal> {
    let mut faults: Vec<(u32, String)> = Vec::new();
    let is_error = |line: &&str| !line.starts_with(' ') && line.contains("error: ");
    for line in log.lines().filter(is_error) {
        let fault = read_marker(line).and_then(|marker| describe_fault(&marker, unit));
        match fault {
            Some(fault) if faults.contains(&fault) => {}
            Some(fault) => faults.push(fault),
            // An error in the kernel file comes before the checks, and may be what defeats them.
            None if faults.is_empty() => return None,
            None => {}
        }
    }
    let (line, _) = *faults.first()?;
    let of_line = faults.iter().filter(|(other, _)| *other == line);
    let reason: Vec<_> = of_line.map(|(_, fault)| fault.as_str()).collect();
    let log: Vec<_> = faults
        .iter()
        .map(|(line, fault)| format!("kernel.cu:{line}: {fault}\n"))
        .collect();
    Some(Refusal {
        status: Status::CompileError,
        reason: format!("line {line}: {}", reason.join("; ")),
        evidence: Box::new(Evidence {
            line: Some(line),
            log: Some(log.concat()),
            ..Evidence::default()
        }),
    })
}

/// The compiler's messages with the faults of the launch checks in plain words, for a log that has other errors first.
pub(super) fn plain_messages(log: &str, unit: &TranslationUnit) -> String {
    let plain = log.lines().map(|line| {
        let is_error = !line.starts_with(' ') && line.contains("error: ");
        let marker = read_marker(line).filter(|_| is_error);
        match marker.and_then(|marker| describe_fault(&marker, unit)) {
            Some((number, fault)) => format!("kernel.cu:{number}:1: error: {fault}\n"),
            None => format!("{line}\n"),
        }
    });
    plain.collect()
}

/// A name of `launch_checks.h` in a message, with its template arguments.
struct Marker<'a> {
    name: &'static str,
    arguments: Vec<&'a str>,
}

fn read_marker(line: &str) -> Option<Marker<'_>> {
    ["kforge_takes", "kforge_counts", "kforge_no_kernel"]
        .into_iter()
        .find_map(|name| {
            // The last one: a compiler names an alias first, then what it is.
            let (_, rest) = line.rsplit_once(name)?;
            let list = rest.strip_prefix('<')?;
            Some(Marker {
                name,
                arguments: split_template_arguments(list)?,
            })
        })
}

/// The template arguments of a text that starts after `<`; `None` without the matching `>`.
fn split_template_arguments(text: &str) -> Option<Vec<&str>> {
    let mut depth = 0i32;
    let mut start = 0;
    let mut arguments = Vec::new();
    for (at, letter) in text.char_indices() {
        match letter {
            '<' | '(' | '[' => depth += 1,
            '>' if depth == 0 => {
                arguments.push(text[start..at].trim());
                return Some(arguments);
            }
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// The line of the launch, and what is wrong.
fn describe_fault(marker: &Marker<'_>, unit: &TranslationUnit) -> Option<(u32, String)> {
    let launch: usize = marker.arguments.first()?.parse().ok()?;
    let entry = unit.entry_points.get(launch)?;
    let expression = &entry.expression;
    let message = match (marker.name, &marker.arguments[1..]) {
        ("kforge_takes", [position, taken, ..]) => {
            let position: usize = position.parse().ok()?;
            describe_mismatch(entry, position, taken)?
        }
        ("kforge_counts", [count, taken @ ..]) => {
            let taken = quoted_list(taken.iter().map(|taken| normalize_type(taken)));
            let passed = quoted_list(entry.argument_names.iter().cloned());
            format!(
                "`{expression}` takes {} ({taken}), the header passes {} ({passed})",
                count_arguments(count.trim_end_matches(['u', 'U', 'l', 'L']).parse().ok()?),
                entry.arguments.len()
            )
            .replace(" ()", "")
        }
        ("kforge_no_kernel", [found, ..]) => format!(
            "`{expression}` is not a kernel: a `__global__` function returns `void`, and this is `{}`",
            normalize_type(found)
        ),
        _ => return None,
    };
    Some((entry.line, message))
}

fn describe_mismatch(entry: &EntryPoint, position: usize, taken: &str) -> Option<String> {
    let argument = *entry.arguments.get(position)?;
    let name = entry
        .argument_names
        .get(position)
        .map_or("", String::as_str);
    let shown = if name.is_empty() {
        String::new()
    } else {
        format!(" (`{name}`)")
    };
    let taken = normalize_type(taken);
    let mut message = format!(
        "argument {}{shown}: the header passes {}, the kernel takes `{taken}`",
        position + 1,
        describe_passed(argument, name)
    );
    let is_number = matches!(
        argument,
        ArgumentType::IntegerConstant(_) | ArgumentType::FloatConstant
    );
    let bare = taken.trim_start_matches("const ");
    if is_number && bare == "__half" {
        message += &format!(" (write `f16({name})`)");
    } else if is_number && bare == "__nv_bfloat16" {
        message += &format!(" (write `bf16({name})`)");
    }
    Some(message)
}

fn count_arguments(count: usize) -> String {
    match count {
        1 => "1 argument".to_owned(),
        count => format!("{count} arguments"),
    }
}

fn quoted_list(items: impl Iterator<Item = String>) -> String {
    items
        .map(|item| format!("`{item}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A C++ type in one spelling, whatever the compiler: `short unsigned int *` is `unsigned short*`.
fn normalize_type(text: &str) -> String {
    const INTEGER_WORDS: [&str; 6] = ["unsigned", "signed", "long", "short", "int", "char"];
    let mut result = String::new();
    let mut integer: Vec<&str> = Vec::new();
    let mut lexemes = split_type(text).into_iter().peekable();
    while let Some(lexeme) = lexemes.next() {
        if INTEGER_WORDS.contains(&lexeme) {
            integer.push(lexeme);
            if lexemes
                .peek()
                .is_some_and(|next| INTEGER_WORDS.contains(next))
            {
                continue;
            }
            push_word(
                &mut result,
                &normalize_integer(&std::mem::take(&mut integer)),
            );
        } else if lexeme.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
            push_word(&mut result, lexeme);
        } else if lexeme == "," {
            result.push_str(", ");
        } else {
            result.push_str(lexeme);
        }
    }
    result
}

/// The words and symbols of a type.
fn split_type(text: &str) -> Vec<&str> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let mut lexemes = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_part(first) {
            rest.find(|letter| !is_part(letter)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        lexemes.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    lexemes
}

fn push_word(result: &mut String, word: &str) {
    if result.ends_with(|letter: char| {
        letter.is_alphanumeric() || matches!(letter, '_' | '*' | '&' | '>')
    }) {
        result.push(' ');
    }
    result.push_str(word);
}

fn normalize_integer(words: &[&str]) -> String {
    let count = |word: &str| words.iter().filter(|other| **other == word).count();
    let base = match (count("char"), count("short"), count("long")) {
        (1.., _, _) => "char",
        (_, 1.., _) => "short",
        (_, _, 2..) => "long long",
        (_, _, 1) => "long",
        _ => "int",
    };
    let sign = if count("unsigned") > 0 {
        "unsigned "
    } else if count("signed") > 0 && base == "char" {
        "signed "
    } else {
        ""
    };
    format!("{sign}{base}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::DType;

    fn unit() -> TranslationUnit {
        TranslationUnit {
            source: String::new(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: vec![EntryPoint {
                expression: "k<4>".to_owned(),
                arguments: vec![
                    ArgumentType::Pointer(DType::BFloat16),
                    ArgumentType::IntegerConstant(3),
                    ArgumentType::FloatConstant,
                ],
                argument_names: ["A", "3", "1e-5"].map(str::to_owned).to_vec(),
                line: 7,
            }],
            fast_math: false,
            max_registers: None,
            arch: None,
        }
    }

    #[test]
    fn all_compilers_give_the_same_message() {
        let gcc = "kernel.cu:3:1:   required from here\nlaunch_checks.h:9:1: error: invalid application of 'sizeof' to incomplete type 'kforge_check::kforge_takes<0, 0, const short unsigned int*>'\nlaunch_checks.h:9:1: error: invalid application of 'sizeof' to incomplete type 'kforge_check::kforge_takes<0, 2, std::pair<long long int, float>*>'\n";
        let clang = "launch_checks.h:9:1: error: invalid application of 'sizeof' to an incomplete type 'kforge_check::kforge_takes<0, 0, const unsigned short *>'\nlaunch_checks.h:9:1: error: invalid application of 'sizeof' to an incomplete type 'kforge_takes<0, 2, std::pair<long long, float> *>'\n";
        let nvrtc = "default_program(9): error: incomplete type \"kforge_check::kforge_takes<0, 0, const unsigned short *>\" is not allowed\n  excerpt\n\nx(9): error: incomplete type \"kforge_check::kforge_takes<0, 2, std::pair<long long, float> *>\" is not allowed\n";
        for log in [gcc, clang, nvrtc] {
            let refusal = mismatch_refusal(log, &unit()).unwrap();
            assert_eq!(
                refusal.reason,
                "line 7: argument 1 (`A`): the header passes `__nv_bfloat16*`, the kernel takes `const unsigned short*`; argument 3 (`1e-5`): the header passes a floating-point number, the kernel takes `std::pair<long long, float>*`"
            );
            assert_eq!(refusal.evidence.line, Some(7));
        }
    }

    #[test]
    fn faults_behind_other_errors_have_plain_words_too() {
        let log = "kernel.cu:9:1: error: 'n' was not declared\n   9 | n\nlaunch_checks.h:9:1: error: invalid application of 'sizeof' to incomplete type 'kforge_check::kforge_takes<0, 0, const short unsigned int*>'\n";
        assert!(mismatch_refusal(log, &unit()).is_none());
        let plain = plain_messages(log, &unit());
        assert!(
            plain.starts_with("kernel.cu:9:1: error: 'n' was not declared\n   9 | n\nkernel.cu:")
        );
        assert!(
            plain.contains("error: argument 1 (`") && !plain.contains("kforge_takes"),
            "{plain}"
        );
    }

    #[test]
    fn counts_and_functions_that_are_no_kernels_are_described() {
        let refusal = |marker: &str| {
            mismatch_refusal(
                &format!("x: error: incomplete type \"{marker}\" is not allowed"),
                &unit(),
            )
        };
        let reason = |marker: &str| refusal(marker).unwrap().reason;
        assert_eq!(
            reason("kforge_counts<0, 1U, float *>"),
            "line 7: `k<4>` takes 1 argument (`float*`), the header passes 3 (`A`, `3`, `1e-5`)"
        );
        assert_eq!(
            reason("kforge_counts<0, 0>"),
            "line 7: `k<4>` takes 0 arguments, the header passes 3 (`A`, `3`, `1e-5`)"
        );
        assert!(
            reason("kforge_no_kernel<0, int (*)(float *)>").ends_with("this is `int(*)(float*)`")
        );
        assert!(reason("kforge_takes<0, 2, const __half>").ends_with("(write `f16(1e-5)`)"));
        for broken in [
            "kforge_takes",
            "kforge_takes<",
            "kforge_takes<0, 9, int>",
            "kforge_takes<1, 0, int>",
            "kforge_takes<x, 0, int>",
            "kforge_takes<0>",
            "kforge_counts<0>",
        ] {
            assert_eq!(refusal(broken), None, "{broken}");
        }
    }

    #[test]
    fn types_have_one_spelling() {
        for (found, expected) in [
            ("long unsigned int", "unsigned long"),
            ("const short unsigned int*", "const unsigned short*"),
            ("const unsigned short *", "const unsigned short*"),
            ("float *const", "float* const"),
            ("unsigned int", "unsigned int"),
            ("signed char", "signed char"),
            ("Vec<float, 4> *", "Vec<float, 4>*"),
            ("char**", "char**"),
            ("int&", "int&"),
        ] {
            assert_eq!(normalize_type(found), expected);
        }
    }
}
