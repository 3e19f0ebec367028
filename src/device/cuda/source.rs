//! Generates the text that NVRTC compiles: the header's constants and macros, the kernel file, and static assertions that the
//! header's launches pass what the kernels take.
//!
//! Line numbers in errors are those of the kernel file. Compiles nothing.

use std::fmt::Write;

use super::headers::preamble;
use crate::device::standard_headers::freed_constants;
use crate::kernel::lexer::{Lexeme, lex};
use crate::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};

/// Templates for the static assertions. They need no header.
const ARGUMENT_CHECKS: &str = r#"
struct __half; struct __half2; struct __nv_bfloat16; struct __nv_bfloat162; struct __nv_fp8_e4m3; struct __nv_fp8_e5m2;
namespace kforge_check {
template <int Number> __device__ inline void refuse() { asm volatile("// kforge refuses line number %0" :: "n"(Number)); }
template <class T> struct Bare { using type = T; };
template <class T> struct Bare<const T> { using type = T; };
template <class T> struct Bare<volatile T> { using type = T; };
template <class T> struct Bare<const volatile T> { using type = T; };
template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };
template <class T> struct Integer { static constexpr int bytes = 0; };
#define KFORGE_INTEGER(type) template <> struct Integer<type> { static constexpr int bytes = sizeof(type); };
KFORGE_INTEGER(bool) KFORGE_INTEGER(char) KFORGE_INTEGER(signed char) KFORGE_INTEGER(unsigned char)
KFORGE_INTEGER(short) KFORGE_INTEGER(unsigned short) KFORGE_INTEGER(int) KFORGE_INTEGER(unsigned)
KFORGE_INTEGER(long) KFORGE_INTEGER(unsigned long) KFORGE_INTEGER(long long) KFORGE_INTEGER(unsigned long long)
#undef KFORGE_INTEGER
template <class T> struct Element { using type = T; };
#define KFORGE_ELEMENT(vector, scalar) template <> struct Element<vector> { using type = scalar; };
#define KFORGE_ELEMENTS(vector, scalar) KFORGE_ELEMENT(vector##2, scalar) KFORGE_ELEMENT(vector##3, scalar) KFORGE_ELEMENT(vector##4, scalar)
KFORGE_ELEMENTS(float, float) KFORGE_ELEMENTS(char, signed char) KFORGE_ELEMENTS(uchar, unsigned char)
KFORGE_ELEMENTS(short, short) KFORGE_ELEMENTS(ushort, unsigned short) KFORGE_ELEMENT(double2, double) KFORGE_ELEMENT(double3, double)
KFORGE_ELEMENT(long2, long) KFORGE_ELEMENT(long3, long) KFORGE_ELEMENT(longlong2, long long) KFORGE_ELEMENT(longlong3, long long)
KFORGE_ELEMENT(__half2, __half) KFORGE_ELEMENT(__nv_bfloat162, __nv_bfloat16)
KFORGE_ELEMENTS(int, void) KFORGE_ELEMENTS(uint, void)
#undef KFORGE_ELEMENTS
#undef KFORGE_ELEMENT
template <class Passed, class Taken> struct Value {
  static constexpr bool same = Same<Passed, Taken>::value || (Integer<Passed>::bytes && Integer<Passed>::bytes == Integer<Taken>::bytes);
};
struct Missing {};
template <class Passed, class Taken> struct Fits { static constexpr bool value = Value<Passed, typename Bare<Taken>::type>::same; };
template <class Passed> struct Fits<Passed, Missing> { static constexpr bool value = true; };
template <class Passed, class Taken> struct Fits<Passed*, Taken*> {
  using Target = typename Element<typename Bare<Taken>::type>::type;
  static constexpr bool value = Same<Target, void>::value || Value<Passed, Target>::same;
};
template <int Position, class... T> struct At { using type = Missing; };
template <class First, class... T> struct At<0, First, T...> { using type = First; };
template <int Position, class First, class... T> struct At<Position, First, T...> { using type = typename At<Position - 1, T...>::type; };
template <class T> struct Function { static constexpr int count = -1; template <int Position> using argument = Missing; };
template <class... T> struct Function<void (*)(T...)> {
  static constexpr int count = sizeof...(T);
  template <int Position> using argument = typename At<Position, T...>::type;
};
}
"#;

/// The C++ text of a translation unit, given its checked source.
pub(super) fn translation_unit(unit: &TranslationUnit, checked: &str) -> String {
    // Writing to a String cannot fail, so the results of `writeln!` are ignored.
    let mut text = format!("{ARGUMENT_CHECKS}{}", preamble());
    let takes_map = |entry: &EntryPoint| entry.arguments.contains(&ArgumentType::TensorMap);
    if unit.entry_points.iter().any(takes_map) && !declares_tensor_map(&unit.source) {
        text.push_str("#include <cuda.h>\n");
    }
    for (name, value) in &unit.constants {
        let kind = match i32::try_from(*value) {
            Ok(_) => "int",
            Err(_) => "long long",
        };
        let _ = writeln!(text, "constexpr {kind} {name} = {value};");
    }
    for (name, value) in &unit.macros {
        let _ = writeln!(text, "#define {name} {value}");
    }
    text.push_str(&freed_constants(&unit.source));
    text.push_str("#line 1 \"kernel.cu\"\n");
    text.push_str(checked);
    text.push('\n');
    for (index, entry) in unit.entry_points.iter().enumerate() {
        write_launch_checks(&mut text, index, entry);
    }
    // An unclosed brace is reported at the last line of the kernel file.
    let last = unit.source.lines().count().max(1);
    let _ = writeln!(text, "#line {last} \"kernel.cu\"");
    text
}

/// Whether a source defines `CUtensorMap` itself, as sources written for NVRTC do.
fn declares_tensor_map(source: &str) -> bool {
    let tokens = lex(source);
    let text = |index: usize| {
        let token: Option<&Lexeme> = tokens.get(index);
        token.map_or("", |token| &source[token.range.clone()])
    };
    (0..tokens.len()).any(|index| {
        let before = index.checked_sub(1).map_or("", text);
        text(index) == "CUtensorMap" && (["{", "="].contains(&text(index + 1)) || before == "}")
    })
}

/// Writes the assertions for one entry. Each gets the line of the entry in the header.
fn write_launch_checks(text: &mut String, index: usize, entry: &EntryPoint) {
    let expression = &entry.expression;
    let count = entry.arguments.len();
    let mut statement = |statement: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "#line {} \"kernel.cu\"\n{statement}", entry.line);
    };
    statement(format_args!(
        "using kforge_entry_{index} = kforge_check::Function<decltype(&{expression})>;"
    ));
    for (condition, message) in [
        (
            "!= -1".to_owned(),
            "is not a kernel: a __global__ function returns void".to_owned(),
        ),
        (
            format!("<= {count} || kforge_entry_{index}::count == -1"),
            format!("takes more arguments than the {count} that the header passes"),
        ),
        (
            format!(">= {count} || kforge_entry_{index}::count == -1"),
            format!("takes fewer arguments than the {count} that the header passes"),
        ),
    ] {
        // ASCII quotes, because NVRTC prints `?` for other characters.
        let message = format!("'{expression}' {message}");
        statement(format_args!(
            "static_assert(kforge_entry_{index}::count {condition}, {message:?});"
        ));
    }
    for (position, argument) in entry.arguments.iter().enumerate() {
        let passed = cuda_type(*argument);
        let message = format!(
            "argument {}: the header passes '{passed}', '{expression}' takes another type",
            position + 1
        );
        statement(format_args!(
            "static_assert(kforge_check::Fits<{passed}, kforge_entry_{index}::argument<{position}>>::value, {message:?});"
        ));
    }
}

fn cuda_type(argument: ArgumentType) -> String {
    match argument {
        ArgumentType::Pointer(dtype) => format!("{}*", dtype.cuda_type()),
        ArgumentType::Scalar(dtype) => dtype.cuda_type().to_owned(),
        ArgumentType::I32 => "int".to_owned(),
        ArgumentType::U32 => "unsigned".to_owned(),
        ArgumentType::I64 => "long long".to_owned(),
        ArgumentType::TensorMap => "CUtensorMap".to_owned(),
    }
}

/// The size in bytes of each argument that a launch passes.
pub(super) fn argument_sizes(entry: &EntryPoint) -> Vec<u64> {
    let size = |argument: &ArgumentType| match argument {
        ArgumentType::Pointer(_) | ArgumentType::I64 => 8,
        ArgumentType::Scalar(dtype) => dtype.bytes(),
        ArgumentType::I32 | ArgumentType::U32 => 4,
        ArgumentType::TensorMap => 128,
    };
    entry.arguments.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tensor_map_type_is_recognized() {
        assert!(declares_tensor_map(
            "struct alignas(64) CUtensorMap { int x; };"
        ));
        assert!(declares_tensor_map(
            "typedef struct X_st { int x; } CUtensorMap;"
        ));
        assert!(declares_tensor_map("using CUtensorMap = X;"));
        assert!(!declares_tensor_map(
            "__global__ void k(const __grid_constant__ CUtensorMap map) {}"
        ));
    }
}
