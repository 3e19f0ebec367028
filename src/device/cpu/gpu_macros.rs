//! The macros of NVRTC, for a screen that compiles on the CPU what a GPU would run.
//!
//! Behind its own headers, the C++ compiler's macros are replaced with NVRTC's, so that a source gets the same answers from both. Where
//! versions of NVRTC differ, the installed one is asked by a small kernel. What still differs is found by comparing the traces of both
//! preprocessors (`device::source_trace`). Text only.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::kernel::plan::TranslationUnit;

/// What a screen must know of the GPU's compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuMacros {
    /// NVRTC's version: major and minor.
    pub version: (i32, i32),
    /// The GPU's architecture, such as `sm_90`.
    pub arch: String,
    /// The value of `__EDG_VERSION__`: the version of NVRTC's parser.
    edg_version: u32,
    /// Names of `VARYING` that this NVRTC does not define.
    undefined: Vec<&'static str>,
}

/// Beginnings of names that both compilers know, or that macros of the C library and of this backend expand to. The numbers of types are
/// the same on both.
const KEPT: [&str; 22] = [
    "__ATOMIC_",
    "__CHAR",
    "__DBL_",
    "__FLT_",
    "__INT",
    "__LDBL_",
    "__LONG",
    "__LP64__",
    "__PTRDIFF_",
    "__SCHAR_",
    "__SHRT_",
    "__SIG_ATOMIC_",
    "__SIZEOF_",
    "__SIZE_",
    "__STDC_",
    "__STDC__",
    "__UINT",
    "__USER_LABEL_PREFIX__",
    "__WCHAR_",
    "__WINT_",
    "__cplusplus",
    "__cpp_",
];

/// Macros of NVRTC with one value.
const FIXED: [(&str, &str); 16] = [
    ("_BOOL", "1"),
    ("_WCHAR_T", "1"),
    ("__CUDACC_DEVICE_ATOMIC_BUILTINS__", "1"),
    ("__CUDACC_RTC__", "1"),
    ("__CUDACC__", "1"),
    ("__CUDANVVM__", "1"),
    ("__CUDA_RUNTIME_H__", ""),
    ("__DRIVER_TYPES_H__", ""),
    ("__EDG__", "1"),
    ("__EXCEPTIONS", "1"),
    ("__NVCC_DIAG_PRAGMA_SUPPORT__", "1"),
    ("__RTTI", "1"),
    ("__SIGNED_CHARS__", "1"),
    ("__STDC_HOSTED__", "1"),
    ("__cpp_exceptions", "199711L"),
    ("__cpp_rtti", "199711L"),
];

/// Macros of NVRTC whose value is not imitated, or depends on its version.
const UNKNOWN: [&str; 2] = ["__CUDACC_VER_BUILD__", "__EDG_VERSION__"];

/// Macros that the C++ compiler has, and NVRTC only in some versions.
const VARYING: [&str; 2] = ["__cpp_digit_separators", "__has_attribute"];

/// The kernel whose template arguments are NVRTC's answers.
const QUESTION: &str = "kforge_macros";
const NO_ANSWER: &str = "NVRTC does not say which macros it defines";

/// Macros that this backend defines for itself.
const OWN: [&str; 3] = ["KFORGE_CPU", "KFORGE_RACE", "KFORGE_BOUNDS"];

/// Macros that NVRTC lacks, and that macros of this backend expand to.
const NEEDED: [&str; 1] = ["__COUNTER__"];

impl GpuMacros {
    /// The source that asks NVRTC for what depends on its version, and the name of its kernel as an expression. `with_answer` reads the
    /// mangled name.
    pub(in crate::device) fn question() -> (String, String) {
        let mut source = "constexpr unsigned kforge_edg = __EDG_VERSION__;\n".to_owned();
        let mut arguments = "kforge_edg".to_owned();
        for (index, name) in VARYING.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(
                source,
                "#ifdef {name}\nconstexpr unsigned kforge_has_{index} = 1;\n#else\nconstexpr unsigned kforge_has_{index} = 0;\n#endif\n"
            );
            let _ = write!(arguments, ", kforge_has_{index}");
        }
        let _ = writeln!(
            source,
            "template <unsigned... Answers> __global__ void {QUESTION}() {{}}"
        );
        (source, format!("{QUESTION}<{arguments}>"))
    }

    /// The macros of an NVRTC. `mangled`: the name of the kernel of `question`, such as `_Z13kforge_macrosIJLj608ELj1ELj0EEEvv`.
    ///
    /// # Errors
    /// If the name does not have all the answers.
    pub(in crate::device) fn with_answer(
        version: (i32, i32),
        arch: String,
        mangled: &str,
    ) -> anyhow::Result<Self> {
        let numbers: Vec<u32> = mangled
            .split("Lj")
            .skip(1)
            .filter_map(|rest| rest.split_once('E')?.0.parse().ok())
            .collect();
        let [edg_version, defined @ ..] = numbers.as_slice() else {
            anyhow::bail!("{NO_ANSWER}: `{mangled}`");
        };
        anyhow::ensure!(defined.len() == VARYING.len(), "{NO_ANSWER}: `{mangled}`");
        let answers = VARYING.into_iter().zip(defined);
        let undefined = answers.filter_map(|(name, is_defined)| (*is_defined == 0).then_some(name));
        Ok(Self {
            version,
            arch,
            edg_version: *edg_version,
            undefined: undefined.collect(),
        })
    }

    /// Directives that replace the macros of the C++ compiler, which `predefined` names, with those of NVRTC.
    pub(super) fn directives(
        &self,
        unit: &TranslationUnit,
        predefined: &BTreeSet<String>,
    ) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let is_kept = |name: &str| KEPT.iter().any(|start| name.starts_with(start));
        for name in predefined.iter().map(String::as_str).chain(OWN) {
            if !is_kept(name) {
                let _ = writeln!(text, "#undef {name}");
            }
        }
        for name in &self.undefined {
            let _ = writeln!(text, "#undef {name}");
        }
        for (name, value) in FIXED {
            let _ = writeln!(text, "#undef {name}\n#define {name} {value}");
        }
        let (major, minor) = self.version;
        let arch = unit.arch.as_deref().unwrap_or(&self.arch);
        let number = arch.trim_start_matches("sm_");
        let digits = number.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let fast = i32::from(unit.fast_math);
        for (name, value) in [
            ("__CUDACC_VER_MAJOR__", major.to_string()),
            ("__CUDACC_VER_MINOR__", minor.to_string()),
            ("__CUDA_API_VER_MAJOR__", major.to_string()),
            ("__CUDA_API_VER_MINOR__", minor.to_string()),
            ("__EDG_VERSION__", self.edg_version.to_string()),
            ("CUDART_VERSION", (major * 1000 + minor * 10).to_string()),
            ("__CUDA_ARCH__", format!("{digits}0")),
            ("__CUDA_ARCH_LIST__", format!("{digits}0")),
            ("__CUDA_FTZ", fast.to_string()),
            ("__CUDA_PREC_DIV", (1 - fast).to_string()),
            ("__CUDA_PREC_SQRT", (1 - fast).to_string()),
            ("__USE_FAST_MATH__", fast.to_string()),
        ] {
            let _ = writeln!(text, "#undef {name}\n#define {name} {value}");
        }
        if number.ends_with('a') {
            let _ = writeln!(
                text,
                "#define __CUDA_ARCH_FEAT_SM{digits}_ALL 1\n#define __CUDA_ARCH_SPECIFIC__ {digits}0\n#define __CUDA_ARCH_FAMILY_SPECIFIC__ {digits}0"
            );
        }
        text
    }
}

/// Whether a compiler defines a macro by itself, so that a source can recognise the compiler by it. Other names are macros for one and
/// functions for the other.
pub(super) fn recognises_compiler(name: &str, predefined: &BTreeSet<String>) -> bool {
    let fixed = FIXED.iter().map(|(name, _)| *name);
    let mut known = (fixed.chain(UNKNOWN))
        .chain(VARYING)
        .chain(OWN)
        .chain(NEEDED);
    predefined.contains(name)
        || known.any(|known| known == name)
        || name.starts_with("__CUDA_ARCH_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_replace_the_compilers_macros() {
        let answer = "_Z13kforge_macrosIJLj607ELj1ELj0EEEvv";
        let macros = GpuMacros::with_answer((13, 2), "sm_90".to_owned(), answer).unwrap();
        let mut unit = TranslationUnit {
            source: String::new(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: Vec::new(),
            fast_math: true,
            max_registers: None,
            arch: Some("sm_90a".to_owned()),
        };
        let predefined = ["__GNUC__", "__INT_MAX__", "linux", "__cplusplus"];
        let predefined = predefined.map(str::to_owned).into();
        let text = macros.directives(&unit, &predefined);
        for line in [
            "#undef __GNUC__",
            "#undef linux",
            "#undef KFORGE_CPU",
            "#define CUDART_VERSION 13020",
            "#define __EDG_VERSION__ 607",
            "#undef __has_attribute",
            "#define __CUDA_ARCH__ 900",
            "#define __CUDA_FTZ 1",
            "#define __CUDA_ARCH_FEAT_SM90_ALL 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        assert!(!text.contains("__INT_MAX__") && !text.contains("__cplusplus"));
        assert!(!text.contains("__cpp_digit_separators"));
        unit.arch = None;
        assert!(!macros.directives(&unit, &predefined).contains("_ALL 1"));
        assert!(recognises_compiler("__GNUC__", &predefined));
        assert!(!recognises_compiler("__syncthreads", &predefined));
    }

    #[test]
    fn an_answer_must_be_complete() {
        for mangled in ["", "kforge_macros", "_Z13kforge_macrosIJLj607ELj1EEEvv"] {
            let error = GpuMacros::with_answer((13, 2), "sm_90".to_owned(), mangled).unwrap_err();
            assert!(error.to_string().contains("which macros"), "{error}");
        }
    }
}
