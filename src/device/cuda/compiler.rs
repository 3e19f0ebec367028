//! stub until the merge: NVRTC in this process
use crate::device::{Build, Compiled, Program, Refusal};
use crate::kernel::plan::{ArgumentType, Unit};
use crate::verdict::{Evidence, Resources, Status};
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString};
use std::fmt::Write;
pub struct Compiler {
    arch: String,
}
pub fn find() -> Result<(), crate::base::Failure> {
    for path in [
        c"/usr/local/cuda/lib64/libnvrtc.so.13",
        c"/work/venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
    ] {
        // SAFETY: test
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        // SAFETY: test
        if !handle.is_null() && unsafe { sys::is_culib_present() } {
            return Ok(());
        }
    }
    Err(crate::base::Failure::environment("no NVRTC"))
}
impl Compiler {
    pub fn open(arch: &str) -> anyhow::Result<Self> {
        find()?;
        Ok(Self {
            arch: arch.to_owned(),
        })
    }
    fn run(
        &self,
        source: &str,
        options: &[String],
        names: &[String],
    ) -> anyhow::Result<Result<(Vec<u8>, Vec<String>, String), String>> {
        let source = CString::new(source)?;
        let program = result::create_program(&source, Some(c"kernel.cu"))?;
        let mut c_names = Vec::new();
        for name in names {
            let name = CString::new(name.as_str())?;
            // SAFETY: test
            unsafe { sys::nvrtcAddNameExpression(program, name.as_ptr()) };
            c_names.push(name);
        }
        // SAFETY: test
        unsafe {
            let compiled = result::compile_program(program, options);
            let log = result::get_program_log(program)?;
            let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).collect();
            let log = CStr::from_bytes_until_nul(&log)?
                .to_string_lossy()
                .into_owned();
            if compiled.is_err() {
                return Ok(Err(log));
            }
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &raw mut size);
            let mut cubin = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast());
            let mut lowered = Vec::new();
            for name in &c_names {
                let mut out = std::ptr::null();
                sys::nvrtcGetLoweredName(program, name.as_ptr(), &raw mut out);
                lowered.push(CStr::from_ptr(out).to_string_lossy().into_owned());
            }
            Ok(Ok((cubin, lowered, log)))
        }
    }
    fn options(&self, arch: &str) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".into(),
            "-lineinfo".into(),
            "--ptxas-options=-v".into(),
        ];
        for folder in [
            "/usr/local/cuda/include",
            "/usr/local/cuda/include/cccl",
            "/work/venv/lib/python3.11/site-packages/nvidia/cu13/include",
        ] {
            options.push(format!("-I{folder}"));
        }
        options
    }
    fn program(cubin: Vec<u8>, entries: Vec<String>, log: String) -> anyhow::Result<Program> {
        let folder = std::env::temp_dir().join("kforge-stub");
        std::fs::create_dir_all(&folder)?;
        let image = folder.join(format!(
            "{}.cubin",
            crate::base::Digest::of_parts([&cubin[..]])
        ));
        std::fs::write(&image, cubin)?;
        let registers = log
            .split("Used ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok(Program {
            image,
            build: Build::Fast,
            schedule: 0,
            resources: Resources {
                registers,
                ..Resources::default()
            },
            compile_seconds: 0.0,
            log,
            entries,
            facts: indexmap::IndexMap::new(),
        })
    }
    pub fn compile(&self, unit: &Unit) -> anyhow::Result<Compiled> {
        let mut text = String::new();
        for (name, value) in &unit.constants {
            writeln!(text, "constexpr int {name} = {value};")?;
        }
        for (name, value) in &unit.macros {
            writeln!(text, "#define {name} {value}")?;
        }
        if unit
            .entries
            .iter()
            .any(|entry| entry.arguments.contains(&ArgumentType::TensorMap))
        {
            text.push_str("struct alignas(64) CUtensorMap { unsigned long long opaque[16]; };\n");
        }
        write!(text, "#line 1 \"kernel.cu\"\n{}", unit.source)?;
        let mut options = self.options(unit.arch.as_deref().unwrap_or(&self.arch));
        if unit.fast_math {
            options.push("--use_fast_math".into());
        }
        let names: Vec<String> = unit
            .entries
            .iter()
            .map(|entry| entry.expression.clone())
            .collect();
        Ok(match self.run(&text, &options, &names)? {
            Ok((cubin, entries, log)) => Compiled::Ready(Self::program(cubin, entries, log)?),
            Err(log) => Compiled::Refused(Refusal {
                status: Status::CompileError,
                reason: log.lines().next().unwrap_or_default().to_owned(),
                evidence: Box::new(Evidence {
                    log: Some(log),
                    ..Evidence::default()
                }),
            }),
        })
    }
    pub fn compile_own(
        &self,
        name: &str,
        source: &str,
        options: &[&str],
        entries: &[&str],
    ) -> anyhow::Result<Program> {
        let cache = std::env::temp_dir()
            .join("kforge-stub")
            .join(format!("{name}-{}.own", crate::base::Digest::of(source)));
        if let Ok(text) = std::fs::read_to_string(&cache) {
            let mut lines = text.lines();
            let image = lines.next().unwrap_or_default().into();
            return Ok(Program {
                image,
                build: Build::Fast,
                schedule: 0,
                resources: Resources::default(),
                compile_seconds: 0.0,
                log: String::new(),
                entries: lines.map(str::to_owned).collect(),
                facts: indexmap::IndexMap::new(),
            });
        }
        let mut all = self.options(&self.arch);
        all.extend(options.iter().map(|o| (*o).to_owned()));
        let names: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        match self.run(source, &all, &names)? {
            Ok((cubin, entries, log)) => {
                let program = Self::program(cubin, entries, log)?;
                std::fs::write(
                    cache,
                    format!(
                        "{}\n{}",
                        program.image.display(),
                        program.entries.join("\n")
                    ),
                )?;
                Ok(program)
            }
            Err(log) => anyhow::bail!("{log}"),
        }
    }
}
