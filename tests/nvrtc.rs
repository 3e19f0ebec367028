//! CUDA's own compiler on the kernels that the CPU takes: what one accepts and the other does not is a table in
//! `fixtures/nvrtc.tsv`, and this test holds it to the truth. No GPU is needed.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::nvrtc::{result, sys};
use kforge::device::cpu::CpuDevice;
use kforge::device::{Build, Compiled, Device};
use kforge::kernel::Kernel;
use kforge::kernel::plan::Unit;
use kforge::task::{Task, TaskFiles, embedded_names};

/// Where Python's packages, or an installed toolkit, keep the library and its headers.
const FIND: &str = "
import glob, os, sys
roots = [p + '/nvidia/*' for p in sys.path] + [os.environ.get('CUDA_HOME', '/usr/local/cuda')]
found = lambda *ends: [f for r in roots for e in ends for f in sorted(glob.glob(r + e))]
libraries = found('/lib/libnvrtc.so.1[23]', '/lib64/libnvrtc.so.1[23]')
print(libraries[-1] if libraries else '')
print('\\n'.join(found('/include', '/include/cccl')))
";

struct Nvrtc {
    /// `-I…` for each folder of headers.
    includes: Vec<String>,
}

/// Loads the library, or says in one line that there is none.
fn nvrtc() -> Option<Nvrtc> {
    let named = std::env::var("KFORGE_TEST_PYTHON").ok();
    for python in named.iter().map(String::as_str).chain(["python3"]) {
        let Ok(output) = Command::new(python).args(["-c", FIND]).output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let Some(library) = lines.next().filter(|line| line.contains("libnvrtc")) else {
            continue;
        };
        let includes: Vec<_> = lines.map(|folder| format!("-I{folder}")).collect();
        if !includes.iter().any(|folder| {
            Path::new(&folder[2..])
                .join("cooperative_groups.h")
                .exists()
        }) {
            continue;
        }
        let path = CString::new(library).unwrap();
        // SAFETY: a string that ends in a zero. Once it is loaded, others find it under its plain name.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        // SAFETY: only looks for the library.
        if !handle.is_null() && unsafe { sys::is_culib_present() } {
            return Some(Nvrtc { includes });
        }
    }
    println!("skipped: no NVRTC with its headers");
    None
}

impl Nvrtc {
    /// `Err`: the first error.
    fn compile(&self, unit: &Unit) -> Result<(), String> {
        let mut source = String::new();
        for (name, value) in &unit.constants {
            writeln!(source, "constexpr int {name} = {value};").unwrap();
        }
        for (name, value) in &unit.macros {
            writeln!(source, "#define {name} {value}").unwrap();
        }
        write!(source, "#line 1 \"kernel.cu\"\n{}", unit.source).unwrap();
        let source = CString::new(source).unwrap();
        let program = result::create_program(&source, Some(c"kernel.cu")).unwrap();
        for entry in &unit.entries {
            let name = CString::new(entry.expression.as_str()).unwrap();
            // SAFETY: the program lives, the name ends in a zero and is copied.
            let added = unsafe { sys::nvrtcAddNameExpression(program, name.as_ptr()) };
            assert_eq!(added, sys::nvrtcResult::NVRTC_SUCCESS);
        }
        let mut options = vec![
            "--gpu-architecture=compute_90".to_owned(),
            "--std=c++17".to_owned(),
        ];
        options.extend(self.includes.iter().cloned());
        // SAFETY: the program lives until it is destroyed below, once.
        let (compiled, log) = unsafe {
            let compiled = result::compile_program(program, &options);
            let log = result::get_program_log(program).unwrap();
            result::destroy_program(program).unwrap();
            (compiled, log)
        };
        let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).collect();
        let text = CStr::from_bytes_until_nul(&log).map_or_else(
            |_| String::new(),
            |text| text.to_string_lossy().into_owned(),
        );
        match compiled {
            Ok(()) => Ok(()),
            Err(_) => Err(text
                .lines()
                .find(|line| line.contains("error"))
                .unwrap_or(&text)
                .to_owned()),
        }
    }
}

/// Every kernel that is asked about, by a name that says where it is.
fn corpus() -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("tests/fixtures/kernels/expected.tsv")).unwrap();
    for name in embedded_names() {
        let task = TaskFiles::find(name)
            .and_then(|files| files.load())
            .unwrap();
        let mut files: Vec<(String, PathBuf, bool)> = Vec::new();
        files.push((
            format!("{name}/oracle.cu"),
            root.join(format!("tasks/{name}/oracle.cu")),
            true,
        ));
        for entry in std::fs::read_dir(root.join("kernels").join(name))
            .unwrap()
            .flatten()
        {
            let file = entry.file_name().to_string_lossy().into_owned();
            files.push((format!("{name}/{file}"), entry.path(), false));
        }
        for row in table.lines().filter(|row| !row.starts_with('#')) {
            let cells: Vec<_> = row.split('\t').map(str::trim).collect();
            if let [file, task, "passed" | "unsupported" | "compile_error", ..] = cells.as_slice()
                && *task == name
            {
                files.push((
                    (*file).to_owned(),
                    root.join("tests/fixtures/kernels").join(file),
                    false,
                ));
            }
        }
        for (label, path, is_oracle) in files {
            units.insert(label, unit(&task, &path, is_oracle));
        }
    }
    units
}

fn unit(task: &Task, path: &Path, is_oracle: bool) -> Unit {
    let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
    let kernel = Kernel::parse(&text, &task.definition)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    kernel.unit(task, &kernel.values(None), is_oracle)
}

#[test]
fn what_nvrtc_and_the_cpu_accept_is_known() {
    let Some(nvrtc) = nvrtc() else { return };
    let Ok(device) = CpuDevice::new() else {
        println!("skipped: no C++ compiler");
        return;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvrtc.tsv");
    let table = std::fs::read_to_string(&path).unwrap();
    let mut expected = BTreeMap::new();
    for row in table
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'))
    {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, cpu, cuda, _why] = cells.as_slice() else {
            panic!("a row of the table has four cells: {row}")
        };
        expected.insert((*file).to_owned(), ((*cpu).to_owned(), (*cuda).to_owned()));
    }
    let (mut found, mut told) = (BTreeMap::new(), String::new());
    let mut accepted = 0;
    for (file, unit) in corpus() {
        let on_cpu = match device.compile(&unit, Build::Fast).unwrap() {
            Compiled::Ready(_) => Ok(()),
            Compiled::Refused(refusal) => Err(refusal.reason),
        };
        let by_nvrtc = nvrtc.compile(&unit);
        accepted += usize::from(by_nvrtc.is_ok());
        if on_cpu.is_ok() != by_nvrtc.is_ok() {
            let word =
                |result: &Result<(), String>| if result.is_ok() { "accepts" } else { "refuses" };
            found.insert(
                file.clone(),
                (word(&on_cpu).to_owned(), word(&by_nvrtc).to_owned()),
            );
            writeln!(
                told,
                "{file}: the CPU {}, NVRTC {}: {}{}",
                word(&on_cpu),
                word(&by_nvrtc),
                on_cpu.err().unwrap_or_default(),
                by_nvrtc.err().unwrap_or_default()
            )
            .unwrap();
        }
    }
    assert!(accepted > 30, "NVRTC accepts {accepted} kernels:\n{told}");
    assert_eq!(
        found,
        expected,
        "`{}` says something else:\n{told}",
        path.display()
    );
}
