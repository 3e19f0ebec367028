//! Expressions in C++ against their evaluation, and what each form refuses.

use std::process::Command;

use super::c::ARITHMETIC;
use super::*;
use crate::base::Digest;
use crate::base::expression::Expression;
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

#[test]
fn expressions_in_cpp_have_the_values_of_the_evaluator() {
    let mut stream = RandomStream::new(7, "expressions in C++", 0);
    let values = [-9_i64, -1, 0, 1, 5, i64::MIN, i64::MAX];
    let mut body = String::new();
    let mut expected = Vec::new();
    for _ in 0..400 {
        let text = random_text(&mut stream, 4);
        let expression = Expression::parse(&text).unwrap();
        let [a, b] = [(); 2].map(|()| values[stream.below(values.len())]);
        let value = expression.evaluate(&|name| Some(if name == "a" { a } else { b }));
        expected.push(match value {
            Ok(value) => value.to_string(),
            // Of two errors the one that comes first is reported, and C++ may evaluate arguments in any order.
            Err(_) => "error".to_owned(),
        });
        let literal = |value: i64| match value {
            i64::MIN => "INT64_MIN".to_owned(),
            value => format!("INT64_C({value})"),
        };
        let cpp = expression.to_cpp(&|name| literal(if name == "a" { a } else { b }));
        body.push_str(&format!("    show([] {{ return {cpp}; }});\n"));
    }
    assert!(expected.iter().filter(|value| *value == "error").count() > 50);
    let program = format!(
        "#include <cstdint>\n#include <cstdio>\n#include <string>\n\
         [[noreturn]] static void fail(const std::string& text) {{ throw text; }}\n{ARITHMETIC}\n\
         template <class F> static void show(F f) {{\n    try {{ std::printf(\"%lld\\n\", (long long)f()); }}\n    \
         catch (const std::string&) {{ std::printf(\"error\\n\"); }}\n}}\nint main() {{\n{body}}}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let [source, binary] = ["all.cpp", "all"].map(|name| folder.path().join(name));
    std::fs::write(&source, program).unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O0", "-w", "-o"]);
    let compiled = compiler.arg(&binary).arg(&source).output().unwrap();
    let log = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{log}");
    let output = Command::new(&binary).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

fn exported(task: &str, source: &str, format: ExportFormat) -> anyhow::Result<ExportedFiles> {
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
fn functions_without_an_annotation_become_device_functions() {
    let source = "/* kforge\nlaunch: {kernel: k, grid: 1, block: 32, args: \"x, output\"}\n*/\n\
                  float twice(float x) { return 2 * x; }\nconstexpr int N = 3;\n\
                  __global__ void k(const float* x, float* output) { output[0] = twice(x[0]); }\n";
    let files = exported("softmax", source, ExportFormat::C).unwrap();
    let text = &files["softmax.cu"];
    assert!(text.contains("\n__device__ float twice(float x)"), "{text}");
    assert!(text.contains("\n__global__ void k("), "{text}");
}
