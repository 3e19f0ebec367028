//! Sources that try to change the judge's checks of compiled code, each with an honest twin. NVRTC decides all of them, so no GPU is
//! needed; without NVRTC the tests are ignored.

use crate::harness::{Missing, TestResult};
use std::path::Path;
use std::time::Duration;

use kforge::device::cpu::CpuDevice;
use kforge::device::cuda::compiler::Compiler;
use kforge::device::{Compiled, Program, Refusal, TraceDifference};
use kforge::kernel::Kernel;
use kforge::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};
use kforge::task::{DType, TaskFiles};
use kforge::verdict::Status;

const ARCH: &str = "sm_90";

fn compiler() -> Result<Compiler, Missing> {
    match Compiler::open_with_program(env!("CARGO_BIN_EXE_kforge").into(), ARCH) {
        // A generous limit, so that a busy machine does not cause timeouts.
        Ok(compiler) => Ok(compiler.with_time_limit(Duration::from_secs(300))),
        Err(error) => Err(Missing::new("nvrtc", format!("{error:#}"))),
    }
}

/// A unit that launches `k` with a pointer to the input, one to the output, and a number of elements.
fn unit(source: &str) -> TranslationUnit {
    let pointer = ArgumentType::Pointer(DType::Float32);
    TranslationUnit {
        source: source.to_owned(),
        constants: Vec::new(),
        macros: Vec::new(),
        entry_points: vec![EntryPoint {
            expression: "k".to_owned(),
            arguments: vec![pointer, pointer, ArgumentType::I64],
            argument_names: ["x", "output", "i64(n)"].map(str::to_owned).to_vec(),
            line: 3,
        }],
        fast_math: false,
        max_registers: None,
        arch: None,
    }
}

fn compile(compiler: &Compiler, source: &str) -> Result<Program, Refusal> {
    match compiler.compile(&unit(source)).unwrap() {
        Compiled::Ready(program) => Ok(program),
        Compiled::Refused(refusal) => Err(refusal),
    }
}

/// A kernel that takes what the header passes.
const HONEST: &str = "__global__ void k(const float* x, float* y, long long n) { if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x]; }\n";
/// Takes arguments of the same sizes, but of other types.
const OTHER_TYPES: &str = "__global__ void k(const int* x, char* y, double n) { if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x]; }\n";
/// Takes more than is passed.
const MORE: &str = "__global__ void k(const float* x, float* y, long long n, float* a, float* b, float* c) { y[n] = x[0] + a[0] + b[0] + c[0]; }\n";

/// Text in front of a kernel that would change checks that it could reach.
const EDITS: [&str; 22] = [
    "#define static_assert(...)",
    "#define decltype(x) void (*)(const float*, float*, long long)",
    "#define sizeof(x) 1",
    "#define template",
    "#define namespace class",
    "#define enum struct",
    "#define auto int",
    "#define Entry Other",
    "#define Launched Other",
    "#define count 0 *",
    "#define value 1 ||",
    "#define same same = 1, other",
    "#define double long long",
    "#define types",
    "#define KFORGE_INTEGER(x)",
    "#define function() other()",
    "#define kforge_check other",
    "namespace kforge_check { template <class P, class T> struct Fits { enum { value = 1 }; }; }",
    "namespace other { template <class P, class T> struct Fits { enum { value = 1 }; }; } using namespace other;",
    "#pragma nv_diag_suppress 70",
    "#pragma diag_suppress 70\n#pragma GCC diagnostic ignored \"-Wall\"",
    "#define static_assert(...)\n#pragma push_macro(\"static_assert\")\n#undef static_assert",
];

fn launch_checks_cannot_be_changed_by_the_source() -> TestResult {
    let compiler = compiler()?;
    for edit in EDITS {
        // A macro that breaks the kernel itself gives another compile error.
        for (kernel, message) in [(OTHER_TYPES, "argument 1"), (MORE, "`k` takes 6 arguments")] {
            let refusal = compile(&compiler, &format!("{kernel}{edit}\n")).unwrap_err();
            assert_eq!(refusal.status, Status::CompileError, "{edit}: {refusal:?}");
            assert!(refusal.reason.contains(message), "{edit}: {refusal:?}");
            assert_eq!(refusal.evidence.line, Some(3), "{edit}");
        }
        let honest = compile(&compiler, &format!("{HONEST}{edit}\n"));
        assert!(honest.is_ok(), "{edit}: {honest:?}");
    }
    // The expression itself is a macro, which expands to another function each time, or closes what it is in.
    for edit in [
        "#define CAT_(a, b) a##b\n#define CAT(a, b) CAT_(a, b)\n#define k CAT(j, __LINE__)",
        "#define k m)>; using other = Launch<(&j3",
        "#define k m)>; } namespace evil { template <auto> struct Launch; using other = Launch<(&j3",
        "#define k j3)>; template <> struct Launch<(&m)> { using type = void (*)(const float*, float*, long long); }; using other = Launch<(&m",
        "#define k _Pragma(\"nv_diag_suppress 70\") m",
    ] {
        let other = OTHER_TYPES.replace(" k(", " m(");
        let honest = HONEST.replace(" k(", " j3(");
        let compiled = compile(&compiler, &format!("{other}{honest}{edit}\n"));
        match compiled {
            Err(refusal) => assert_eq!(refusal.status, Status::CompileError, "{edit}"),
            Ok(program) => assert!(
                program.entries[0].name.contains("j3"),
                "{edit}: {program:?}"
            ),
        }
    }
    Ok(())
}

fn names_of_functions_are_those_that_were_checked() -> TestResult {
    let compiler = compiler()?;
    let other = OTHER_TYPES.replace(" k(", " other_types(");
    for edit in [
        "#pragma nv_mangled_name other_types",
        "#pragma nv_mangled_name other_types\n#pragma nv_mangled_name k\n#pragma nv_mangled_name other_types",
        "#define NAME(x) _Pragma(#x)\nNAME(nv_mangled_name other_types)",
        "#define k k _Pragma(\"nv_mangled_name other_types\")",
        "#define OPERATOR _Pra##gma\n%:pragma nv_mangled_name other_types",
    ] {
        let refusal = compile(&compiler, &format!("{HONEST}{other}{edit}\n")).unwrap_err();
        assert_eq!(refusal.status, Status::Rejected, "{edit}: {refusal:?}");
        assert!(refusal.evidence.line.is_some(), "{edit}: {refusal:?}");
    }
    for edit in [
        "#pragma unroll",
        "#define UNROLL(n) _Pragma(#n)\nUNROLL(unroll 4)",
        "#pragma mangled_name other_types",
    ] {
        let program = compile(&compiler, &format!("{other}{HONEST}{edit}\n")).unwrap();
        assert_eq!(program.entries[0].name, "_Z1kPKfPfx", "{edit}");
    }
    Ok(())
}

fn text_behind_an_open_source_is_not_skipped() -> TestResult {
    let compiler = compiler()?;
    for end in [
        "#if 0",
        "#if 1",
        "/*",
        "// \\",
        "#define X \\",
        "R\"(",
        "\"",
        "extern \"C\" {",
        "namespace q {",
        "inline namespace q {",
        "template <class T>",
        "template <class T> struct",
        "struct S {",
        "void f() {",
        "[[nodiscard]]",
        "bool z = (",
        "static",
        "typedef",
        "extern \"C\"",
        "alignas(",
        "asm(",
        "??/",
        "#if 0\n#else",
        "enum {",
    ] {
        let refusal = compile(&compiler, &format!("{OTHER_TYPES}{end}")).unwrap_err();
        assert_eq!(refusal.status, Status::CompileError, "{end}: {refusal:?}");
        assert!(
            refusal.evidence.line.is_none_or(|line| line <= 4),
            "{end}: {refusal:?}"
        );
    }
    for end in [
        "// \\",
        "#define X \\",
        "#define X",
        "",
        "// no newline",
        ";",
    ] {
        let compiled = compile(&compiler, &format!("{HONEST}{end}"));
        assert!(compiled.is_ok(), "{end}: {compiled:?}");
    }
    let unclosed = compile(&compiler, &format!("{HONEST}void f() {{\n")).unwrap_err();
    assert!(
        unclosed.reason.contains("`{` is not closed"),
        "{unclosed:?}"
    );
    let overloaded = HONEST.replace("long long", "int");
    let overloaded = compile(&compiler, &format!("{HONEST}{overloaded}")).unwrap_err();
    assert!(
        overloaded.reason.contains("`k` names no single function"),
        "{overloaded:?}"
    );
    Ok(())
}

fn checks_leave_nothing_in_the_compiled_kernel() -> TestResult {
    let compiler = compiler()?;
    let program = compile(&compiler, HONEST).unwrap();
    let image = std::fs::read(&program.image).unwrap();
    let has = |text: &[u8]| image.windows(text.len()).any(|window| window == text);
    assert!(has(b"_Z1kPKfPfx") && !has(b"kforge") && !has(b".nv.global"));
    let sizes: Vec<_> = program.entries[0]
        .parameters
        .iter()
        .map(|parameter| parameter.bytes)
        .collect();
    assert_eq!(sizes, [8, 8, 8]);
    assert_eq!(program.log, "");
    Ok(())
}

/// Inline PTX in a kernel's function, and whether it is accepted.
const ASSEMBLY: [(&str, bool); 33] = [
    // Variables, hidden behind comments, paths and blocks.
    (
        "{ .global .align 4 .u32 hidden; atom.global.add.u32 %0, [hidden], 1; }",
        false,
    ),
    (
        "{ .const .align 4 .u32 hidden = 3; ld.const.u32 %0, [hidden]; }",
        false,
    ),
    (
        "{ /* .shared */.global .align 4 .u32 hidden; atom.global.add.u32 %0, [hidden], 1; }",
        false,
    ),
    (
        "{\\n// .file \\\\\\n.global .align 4 .u32 hidden; atom.global.add.u32 %0, [hidden], 1; }",
        false,
    ),
    ("{ .reg .b32 t; mov.b32 t, 1; mov.b32 %0, t; }", true),
    (
        "{ .shared .align 4 .b8 own[512]; .reg .b32 t; mov.b32 t, own; mov.b32 %0, t; }",
        true,
    ),
    (
        "{ .reg .pred p; .reg .b32 t; mov.b32 t, 0; again: add.u32 t, t, 1; setp.lt.u32 p, t, 3; @p bra again; mov.b32 %0, t; }",
        true,
    ),
    ("mov.u32 %0, %%laneid; // .global .u32 x;", true),
    ("/* } .global .u32 x; */ mov.u32 %0, 3;", true),
    // The device's heap and other functions of the driver.
    (
        "{ .extern .func (.param .b64 r) malloc (.param .b64 s); .param .b64 a; .param .b64 b; st.param.b64 [a], 16; call (b), malloc, (a); mov.u32 %0, 1; }",
        false,
    ),
    (
        "{ .extern/* */.func (.param .b64 r)\\n malloc (.param .b64 s); .param .b64 a; .param .b64 b; st.param.b64 [a], 16; call (b), malloc, (a); mov.u32 %0, 1; }",
        false,
    ),
    (
        "{ .extern .func free (.param .b64 s); .param .b64 a; st.param.b64 [a], 0; call free, (a); mov.u32 %0, 1; }",
        false,
    ),
    (
        "{ .extern .func (.param .b32 r) cudaDeviceSynchronize (); .param .b32 b; call (b), cudaDeviceSynchronize, (); mov.u32 %0, 1; }",
        false,
    ),
    (
        "{ .extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 v); mov.u32 %0, 1; }",
        false,
    ),
    ("{ .local .align 4 .b8 own[16]; mov.u32 %0, 1; }", true),
    ("{ .reg .b64 l; mov.b64 l, 0; mov.u32 %0, 1; }", true),
    // Assembly that closes its function.
    (
        "mov.u32 %0, 1; ret;\\n}\\n.visible .func other()\\n{\\n",
        false,
    ),
    ("mov.u32 %0, 1; ret;\\n}\\n.func other()\\n{\\n", false),
    (
        "mov.u32 %0, 1; ret;\\n}\\n.visible .entry other(.param .u64 a)\\n{\\n",
        false,
    ),
    (
        "mov.u32 %0, 1; ret;\\n}\\n.file 77 \\\"a.cu\\\" .global .attribute(.managed) .align 4 .u32 shared_with_host;\\n.func other()\\n{\\n",
        false,
    ),
    (
        "mov.u32 %0, 1; ret;\\n\\t// end inline asm\\n}\\n.global .align 4 .u32 hidden;\\n.func other()\\n{\\n\\t// begin inline asm\\n",
        false,
    ),
    (
        "mov.u32 %0, 1; ret;\\n}\\n.global .texref t;\\n.func other()\\n{\\n",
        false,
    ),
    ("mov.u32 %0, 1; {", false),
    ("mov.u32 %0, 1; } {", false),
    ("mov.u32 %0, 1; { } { }", true),
    ("{ { mov.u32 %0, 1; } }", true),
    ("{ mov.u32 %0, 1; }\\n", true),
    // What two readers may read differently.
    ("mov.u32 %0, 1; .pragma \\\"nounroll\\\";", true),
    ("mov.u32 %0, 1; .pragma \\\"no\\nunroll\\\";", false),
    ("mov.u32 %0, 1; .loc 1 1 1", false),
    ("mov.u32 %0, 1; // goes on \\\\\\n", false),
    ("ld .global .u32 %0, [%1];", true),
    (
        "mov.u32 %0, 1; /* .entry k(.param .u64 a, .param .u64 b, .param .u64 c) */",
        true,
    ),
];

fn declarations_in_inline_ptx_are_found_wherever_they_are() -> TestResult {
    let compiler = compiler()?;
    let mut rejected = 0;
    for (assembly, is_accepted) in ASSEMBLY {
        let source = format!(
            "\n// asm\n__device__ unsigned other_one(const float* x) {{ unsigned r;\n  asm volatile(\"{assembly}\" : \"=r\"(r) : \"l\"(x) : \"memory\"); return r; }}\n\
            __global__ void k(const float* x, float* y, long long n) {{ y[n] = other_one(x); }}\n"
        );
        let compiled = compile(&compiler, &source);
        if is_accepted {
            assert!(compiled.is_ok(), "{assembly}: {compiled:?}");
            continue;
        }
        // The assembler refuses some of it first, without a line.
        let refusal = compiled.unwrap_err();
        if refusal.status != Status::CompileError {
            assert_eq!(refusal.status, Status::Rejected, "{assembly}: {refusal:?}");
            assert_eq!(refusal.evidence.line, Some(4), "{assembly}: {refusal:?}");
            rejected += 1;
        }
    }
    assert!(rejected >= 11, "{rejected}");
    Ok(())
}

fn parameters_are_those_of_the_machine_code() -> TestResult {
    let compiler = compiler()?;
    // What looks like the entry is a comment in another kernel.
    let before = "__global__ void before(float* x) { asm volatile(\"/* .entry k(.param .u64 a, .param .u64 b, .param .u64 c) */\"); *x = 1.0f; }\n";
    for linkage in ["", "extern \"C\" "] {
        let refusal = compile(
            &compiler,
            &format!("#define static_assert(...)\n{before}{linkage}{MORE}"),
        )
        .unwrap_err();
        assert_eq!(refusal.status, Status::CompileError, "{refusal:?}");
        assert_eq!(refusal.evidence.line, Some(3), "{refusal:?}");
        let honest = compile(&compiler, &format!("{before}{linkage}{HONEST}")).unwrap();
        assert_eq!(honest.entries[0].parameters.len(), 3);
    }
    // The C++ function is only declared, and assembly defines an entry of its name.
    let forged = "extern \"C\" __global__ void k(const float*, float*, long long);\n\
        __global__ void j(float* x) { asm volatile(\"ret;\\n\\t// end inline asm\\n}\\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {\\n\\t// begin inline asm\\n\"); }\n";
    let refusal = compile(&compiler, forged).unwrap_err();
    assert!(
        matches!(refusal.status, Status::CompileError | Status::Rejected),
        "{refusal:?}"
    );
    Ok(())
}

/// What a source shows the CPU's screen and NVRTC, by the preprocessors of both.
fn difference(compiler: &Compiler, host: &CpuDevice, source: &str) -> Option<TraceDifference> {
    let program =
        compile(compiler, source).unwrap_or_else(|refusal| panic!("{source}: {refusal:?}"));
    host.trace_difference(&unit(source), &program.trace)
        .unwrap()
}

fn the_screen_and_nvrtc_see_one_program() -> TestResult {
    let compiler = compiler()?;
    let host = CpuDevice::for_screen(compiler.macros().unwrap())
        .expect("`cargo test` needs a C++ compiler");
    // The same answer for both.
    for condition in [
        "defined(__CUDACC_RTC__)",
        "!defined(__CUDACC__)",
        "defined(KFORGE_CPU)",
        "defined(__GNUC__)",
        "defined(__x86_64__)",
        "__CUDA_ARCH__ >= 900",
        "defined(__OPTIMIZE__)",
        "defined(__linux__) || defined(linux)",
        "defined(__EDG__)",
        "__CUDACC_VER_MAJOR__ >= 13",
        "CUDART_VERSION > 12080",
        "defined(__clang__) || defined(_MSC_VER)",
        "defined(__SANITIZE_THREAD__)",
        "defined(__AVX2__)",
        "defined(__FAST_MATH__)",
        "defined(__ELF__)",
        "defined(__SIZEOF_INT128__) && 0",
        "defined(KFORGE_RACE)",
        "__has_include(<cuda_bf16.h>)",
        "defined(__NVCC__)",
        "__cplusplus >= 201703L",
        "defined(__CUDANVVM__)",
        "defined(_GNU_SOURCE)",
        "__STDC_HOSTED__",
        "defined(__EXCEPTIONS)",
        "defined(M_PI)",
        "defined(__CUDA_ARCH_FEAT_SM90_ALL)",
        // These depend on the version of NVRTC.
        "__EDG_VERSION__ >= 608",
        "__EDG_VERSION__ == 606",
        "defined(__has_attribute)",
        "defined(__cpp_digit_separators)",
    ] {
        let source = format!(
            "\n#if {condition}\n#define BARRIER __syncthreads()\n#else\n#define BARRIER\n#endif\n{HONEST}"
        );
        assert_eq!(difference(&compiler, &host, &source), None, "{condition}");
    }
    // Conditions with two answers are found by their line, whatever they test.
    for condition in [
        "__has_builtin(__nvvm_bar0)",
        "__has_builtin(__builtin_ia32_pause)",
        "defined(__SIZEOF_INT128__)",
        "defined(__INT_MAX__)",
        "defined(__CUDACC_VER_BUILD__)",
        "defined(__COUNTER__)",
        "defined(__ATOMIC_SEQ_CST)",
    ] {
        let source = format!(
            "\n#if {condition}\n#define BARRIER __syncthreads()\n#else\n#define BARRIER\n#endif\n{HONEST}"
        );
        let found = difference(&compiler, &host, &source);
        assert_eq!(found.and_then(|found| found.line), Some(2), "{condition}");
        let twin = source.replace(condition, "defined(__CUDACC__)");
        assert_eq!(difference(&compiler, &host, &twin), None, "{condition}");
    }
    // A macro of one compiler can also be told by its expansion, without any condition.
    for name in ["__CUDACC_VER_BUILD__", "__INT_MAX__", "__TIME__"] {
        let source = format!(
            "#define TEXT_(x) #x\n#define TEXT(x) TEXT_(x)\nconstexpr int length = sizeof(TEXT({name}));\n{HONEST}"
        );
        let found = difference(&compiler, &host, &source);
        assert_eq!(found.and_then(|found| found.name).as_deref(), Some(name));
    }
    // The preprocessor of the screen fails where NVRTC's does not.
    let source = format!("\n#if !__has_builtin(__nvvm_bar0)\n#error no\n#endif\n{HONEST}");
    assert!(
        compile(&compiler, &source).is_err() || difference(&compiler, &host, &source).is_some()
    );
    Ok(())
}

/// The kernels of `fixtures/gpu` that the compiler decides: what they try is written there.
fn gpu_fixtures_of_the_compiler_need_no_gpu() -> TestResult {
    let compiler = compiler()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpu");
    let table = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let mut decided = 0;
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, task, status, _, line, _] = cells.as_slice() else {
            panic!("a row of the table must have six cells: {row}")
        };
        let is_honest = file.starts_with("honest_");
        let decided_kinds = ["checks_", "asm_", "state_arguments", "read_behind_"];
        if !is_honest && !decided_kinds.iter().any(|kind| file.starts_with(kind)) {
            continue;
        }
        let task = TaskFiles::find(folder.join("tasks").join(task).to_str().unwrap());
        let task = task.and_then(|files| files.load()).unwrap();
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let kernel = Kernel::parse(&text, &task.definition).unwrap();
        let unit = kernel.translation_unit(&task, &kernel.tunable_values(None), false);
        match compiler.compile(&unit).unwrap() {
            Compiled::Ready(_) => assert!(is_honest, "{file} compiled"),
            Compiled::Refused(refusal) => {
                let found = refusal.status.to_string();
                assert_eq!(found, *status, "{file}: {refusal:?}");
                let line = line.parse().ok();
                assert!(
                    line.is_none() || refusal.evidence.line == line,
                    "{file}: {refusal:?}"
                );
                decided += 1;
            }
        }
    }
    assert!(decided >= 21, "{decided}");
    Ok(())
}

crate::harness::tests!(
    gpu_fixtures_of_the_compiler_need_no_gpu,
    names_of_functions_are_those_that_were_checked,
    launch_checks_cannot_be_changed_by_the_source,
    text_behind_an_open_source_is_not_skipped,
    checks_leave_nothing_in_the_compiled_kernel,
    declarations_in_inline_ptx_are_found_wherever_they_are,
    parameters_are_those_of_the_machine_code,
    the_screen_and_nvrtc_see_one_program,
);
