//! Expressions in C++ against their evaluation, and what each form refuses.

use std::process::Command;

use super::c::ARITHMETIC;
use super::*;
use crate::base::Digest;
use crate::base::expression::{Expression, Language};
use crate::base::random::RandomStream;
use crate::kernel::Kernel;
use crate::task::TaskFiles;

/// Numbers at which the arithmetic changes.
const NUMBERS: [i64; 10] = [0, 1, 2, 3, 7, 64, 65_535, 1 << 31, 1 << 62, i64::MAX];

/// A random expression over `a` and `b`.
fn random_text(stream: &mut RandomStream, depth: usize) -> String {
    if depth == 0 || stream.below(5) == 0 {
        return match stream.below(4) {
            0 => "a".to_owned(),
            1 => "b".to_owned(),
            _ => NUMBERS[stream.below(NUMBERS.len())].to_string(),
        };
    }
    let mut part = || random_text(stream, depth - 1);
    let [x, y, z] = [part(), part(), part()];
    match stream.below(12) {
        0 => format!("-({x})"),
        1 => format!("(not ({x}))"),
        2 => format!("min({x}, {y}, {z})"),
        3 => format!("max({x}, {y})"),
        4 => format!("ceil_div({x}, {y})"),
        5 => format!("next_pow2({x})"),
        6 => format!("if({x}, {y}, {z})"),
        _ => {
            let operators = [
                "+", "-", "*", "//", "%", "or", "and", "==", "!=", "<", "<=", ">", ">=",
            ];
            format!("(({x}) {} ({y}))", operators[stream.below(operators.len())])
        }
    }
}

/// Random expressions with values of `a` and `b`, and what the evaluator says about each.
fn random_expressions() -> Vec<(Expression, [i64; 2], String)> {
    let mut stream = RandomStream::new(7, "expressions in C++", 0);
    let values = [-9_i64, -1, 0, 1, 5, i64::MIN, i64::MAX];
    let all = (0..400).map(|_| {
        let text = random_text(&mut stream, 4);
        let expression = Expression::parse(&text).unwrap();
        let [a, b] = [(); 2].map(|()| values[stream.below(values.len())]);
        let value = expression.evaluate(&|name| Some(if name == "a" { a } else { b }));
        // Of two errors the one that comes first is reported, and C++ may evaluate arguments in any order.
        let value = value.map_or("error".to_owned(), |value| value.to_string());
        (expression, [a, b], value)
    });
    let all: Vec<_> = all.collect();
    assert!(all.iter().filter(|(_, _, value)| value == "error").count() > 50);
    all
}

/// One statement for each expression.
fn statements(language: Language, literal: &dyn Fn(i64) -> String, around: [&str; 2]) -> String {
    let all = random_expressions().into_iter();
    let all = all.map(|(expression, [a, b], _)| {
        let value = |name: &str| literal(if name == "a" { a } else { b });
        let text = expression.to_code(language, &value);
        format!("    {}{text}{}\n", around[0], around[1])
    });
    all.collect()
}

fn assert_values(found: &[u8]) {
    let expected: Vec<_> = random_expressions()
        .into_iter()
        .map(|(_, _, value)| value)
        .collect();
    let found = String::from_utf8_lossy(found);
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

/// Compiles a program, runs it and compares what it prints.
fn assert_program_values(compiler: &mut Command, name: &str, program: &str) {
    let folder = tempfile::tempdir().unwrap();
    let [source, binary] = [name, "all"].map(|name| folder.path().join(name));
    std::fs::write(&source, program).unwrap();
    let compiled = compiler
        .arg("-o")
        .arg(&binary)
        .arg(&source)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{log}");
    assert_values(&Command::new(&binary).output().unwrap().stdout);
}

#[test]
fn expressions_in_cpp_have_the_values_of_the_evaluator() {
    let literal = |value: i64| match value {
        i64::MIN => "INT64_MIN".to_owned(),
        value => format!("INT64_C({value})"),
    };
    let body = statements(Language::Cpp, &literal, ["show([] { return ", "; });"]);
    let program = format!(
        "#include <cstdint>\n#include <cstdio>\n#include <string>\n\
         [[noreturn]] static void fail(const std::string& text) {{ throw text; }}\n{ARITHMETIC}\n\
         template <class F> static void show(F f) {{\n    try {{ std::printf(\"%lld\\n\", (long long)f()); }}\n    \
         catch (const std::string&) {{ std::printf(\"error\\n\"); }}\n}}\nint main() {{\n{body}}}\n"
    );
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O0", "-w"]);
    assert_program_values(&mut compiler, "all.cpp", &program);
}

#[test]
fn expressions_in_rust_have_the_values_of_the_evaluator() {
    let literal = |value: i64| match value {
        i64::MIN => "i64::MIN".to_owned(),
        value => format!("({value}_i64)"),
    };
    let body = statements(Language::Rust, &literal, ["show((|| Ok(", "))());"]);
    let program = format!(
        "struct Error(String);\n{}\nfn show(value: Result<i64, Error>) {{\n    match value {{\n        \
         Ok(value) => println!(\"{{value}}\"),\n        Err(Error(_)) => println!(\"error\"),\n    }}\n}}\n\
         fn main() {{\n{body}}}\n",
        super::rust::ARITHMETIC
    );
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition=2024", "-Awarnings", "-Cdebuginfo=0"]);
    assert_program_values(&mut compiler, "all.rs", &program);
}

#[test]
fn expressions_in_python_have_the_values_of_the_evaluator() {
    let literal = |value: i64| format!("({value})");
    let body = statements(Language::Python, &literal, ["show(lambda: ", ")"]);
    let source = include_str!("../../kernels/softmax/rows.cu");
    let files = exported("softmax", source, ExportFormat::Cupy).unwrap();
    let module = files.values().next().unwrap();
    let start = module.find("class _State").unwrap();
    let end = module.find("# What the header's arguments become").unwrap();
    let program = format!(
        "import threading\n{}\ndef show(value):\n    try:\n        print(value())\n    \
         except ValueError:\n        print(\"error\")\n\ndef main():\n{body}\nmain()\n",
        &module[start..end]
    );
    let output = Command::new("python3").args(["-c", &program]).output();
    let output = output.unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert_values(&output.stdout);
}

pub(super) fn exported(
    task: &str,
    source: &str,
    format: ExportFormat,
) -> anyhow::Result<ExportedFiles> {
    let task = TaskFiles::find(task).unwrap().load().unwrap();
    let kernel = Kernel::parse(source, &task.definition).unwrap();
    export(&ExportRequest {
        kernel: &kernel,
        task: &task,
        format,
        provenance: &Provenance {
            origin: "a test".to_owned(),
            step: None,
            task: task.name.clone(),
            source: Digest::of(source),
            kforge: "0",
            judged: None,
        },
        name: None,
        binding: FlashInferBinding::TvmFfi,
    })
}

#[test]
fn what_a_form_cannot_express_is_refused_with_the_line() {
    let head =
        "/* kforge\nlaunch: {kernel: k, grid: rows, block: 32, args: \"x, output, columns\"}\n";
    let code = "__global__ void k(const float* x, float* output, int columns) {}\n";
    let kernel = |more: &str, text: &str| format!("{head}{more}*/\n{text}");
    let of_code = |text: &str| kernel("", &format!("{text}\n{code}"));
    for (source, format, reason) in [
        (
            kernel("compile: {\n  fast_math: true}\n", code),
            ExportFormat::Flashinfer,
            "line 4: `compile: fast_math`",
        ),
        (
            of_code("#ifdef __CUDACC_RTC__\n#endif"),
            ExportFormat::C,
            "line 4: `__CUDACC_RTC__`: nvcc would compile other code",
        ),
        (
            of_code(
                "__device__ int f();\n__device__ int f() { return 1; }\n__device__ int g() { return ::f(); }",
            ),
            ExportFormat::C,
            "line 6: `::f`",
        ),
        (
            kernel(
                "tunables: {SIZE: [1, 2]}\nvariants: [{when: rows > 4, SIZE: 2}]\n",
                &format!("extern \"C\" {code}"),
            ),
            ExportFormat::Standalone,
            "line 6: `extern \"C\"`: the kernel has variants",
        ),
    ] {
        let error = exported("softmax", &source, format)
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
        // The plain kernel is not refused.
        assert!(exported("softmax", &kernel("", code), format).is_ok());
    }
    let naive = include_str!("../../kernels/gdn_decode/naive.cu");
    let error = exported("gdn_decode", naive, ExportFormat::Kernelbench).unwrap_err();
    assert!(error.to_string().contains("2 outputs"), "{error}");
}

#[test]
fn forms_that_pass_bytes_refuse_what_they_cannot_launch() {
    let kernel = |launch: &str, parameter: &str| {
        format!(
            "/* kforge\nlaunch:\n  - {{kernel: k, grid: rows, block: 32, {launch}}}\n*/\n\
             template <class T> struct Same {{ using type = T; }};\n\
             __global__ void k(const float* x, float* output, {parameter} n) {{}}\n"
        )
    };
    let typed = "args: \"x, output, f32(1e-5)\"";
    let untyped = "args: \"x, output, 1e-5\"";
    let cluster = "cluster: 2, args: \"x, output, columns\"";
    let overlap = "overlap: true, args: \"x, output, columns\"";
    let same = "Same<float>::type";
    use ExportFormat::{CudaCore, Cupy, Rust};
    for (launch, parameter, format, reason) in [
        (
            cluster,
            "int",
            Cupy,
            "line 3: `cupy` launches no kernel with a `cluster`",
        ),
        (
            overlap,
            "int",
            Cupy,
            "line 3: `cupy` launches no kernel with `overlap`",
        ),
        (cluster, "int", CudaCore, ""),
        (overlap, "int", CudaCore, ""),
        (
            untyped,
            same,
            Rust,
            "line 3: argument 3 (`1e-5`): the type of the kernel's parameter",
        ),
        (typed, same, Rust, ""),
        (untyped, "const float", Cupy, ""),
    ] {
        let result = exported("softmax", &kernel(launch, parameter), format);
        match result {
            Ok(_) => assert_eq!(reason, "", "{launch} {parameter}"),
            Err(error) => assert!(
                error.to_string().starts_with(reason) && !reason.is_empty(),
                "{error}"
            ),
        }
    }
    let source = kernel(typed, "float") + "#include <cutlass/cutlass.h>\n";
    let error = exported("softmax", &source, Cupy).unwrap_err().to_string();
    assert!(
        error.starts_with("line 7: `<cutlass/cutlass.h>`"),
        "{error}"
    );
}

#[test]
fn functions_without_an_annotation_become_device_functions() {
    let source = "/* kforge\nlaunch: {kernel: k, grid: 1, block: 32, args: \"x, output\"}\n*/\n\
                  float twice(float x) { return 2 * x; }\nconstexpr int N = 3;\n\
                  __global__ void k(const float* x, float* output) { output[0] = twice(x[0]); }\n";
    let files = exported("softmax", source, ExportFormat::C).unwrap();
    let text = &files["softmax.cu"];
    assert!(text.contains("\n__device__ float twice(float x)"), "{text}");
    assert!(text.contains("\n__global__ void k("), "{text}");
}
