//! The child's side of a compilation, `kforge __nvrtc`: loads NVRTC, compiles the request from standard input, and writes the
//! response to standard output. The process is confined before its first instruction.
//!
//! Opens no files itself. The parent (`nvrtc_process`) decides which files NVRTC can open.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use cudarc::nvrtc::{result, sys};

use super::wire::{CompileJob, CompileRequest, CompileResponse};

/// Serves one request.
///
/// # Errors
/// If the library cannot be used. A source that does not compile is a response, not an error.
pub(crate) fn serve() -> anyhow::Result<()> {
    let request = CompileRequest::read(io::stdin().lock()).context("failed to read the request")?;
    load_library(&request.library)?;
    let version = version()?;
    load_builtins(&request.library, version)?;
    let mut response = match &request.job {
        Some(job) => compile(job)?,
        None => CompileResponse::default(),
    };
    response.version = version;
    response
        .write(io::stdout().lock())
        .context("failed to write the response")
}

/// Loads the library by its full path. Later loads by its plain name then find the same library.
fn load_library(library: &Path) -> anyhow::Result<()> {
    let path = CString::new(library.as_os_str().as_bytes())?;
    // SAFETY: a string that ends in a zero; the library is never unloaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: a string that is valid until the next call, or null.
        let reason = unsafe {
            let reason = libc::dlerror();
            (!reason.is_null()).then(|| CStr::from_ptr(reason).to_string_lossy().into_owned())
        };
        bail!("{}", reason.unwrap_or_default());
    }
    // SAFETY: only searches for the library. Without it the calls below would panic.
    if !unsafe { sys::is_culib_present() } {
        bail!(
            "`{}` is loaded, but is not found by its plain name",
            library.display()
        );
    }
    Ok(())
}

/// Loads the library of built-in functions that lies beside NVRTC. NVRTC opens it by its plain name, and some builds, such as the package of
/// version 13.0, do not look in their own folder. If there is no such file, NVRTC looks in the system's folders.
fn load_builtins(library: &Path, (major, minor): (i32, i32)) -> anyhow::Result<()> {
    let path = library.with_file_name(format!("libnvrtc-builtins.so.{major}.{minor}"));
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends in a zero; the library is never unloaded.
    unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    Ok(())
}

fn version() -> anyhow::Result<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are valid for writes.
    let result = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    result.result().context("failed to read NVRTC's version")?;
    Ok((major, minor))
}

fn compile(job: &CompileJob) -> anyhow::Result<CompileResponse> {
    // A candidate's source may contain a zero byte. The text ends there, as for any compiler.
    let text = |text: &str| {
        let end = text.find('\0').unwrap_or(text.len());
        CString::new(&text[..end])
    };
    let source = text(&job.source)?;
    let headers = Headers::new(job)?;
    let mut program: sys::nvrtcProgram = std::ptr::null_mut();
    // SAFETY: strings that end in a zero, and two lists of equal length; all outlive the program.
    let created = unsafe {
        sys::nvrtcCreateProgram(
            &raw mut program,
            source.as_ptr(),
            c"kernel.cu".as_ptr(),
            headers.count(),
            headers.contents.as_ptr(),
            headers.names.as_ptr(),
        )
    };
    created
        .result()
        .context("NVRTC failed to create a program")?;
    let expressions = job.expressions.iter().map(|expression| text(expression));
    let expressions = expressions.collect::<Result<Vec<_>, _>>()?;
    for expression in &expressions {
        // SAFETY: the program is valid; the expression outlives it.
        let added = unsafe { sys::nvrtcAddNameExpression(program, expression.as_ptr()) };
        added
            .result()
            .context("NVRTC failed to add a name expression")?;
    }
    // SAFETY: the program was created above.
    let compiled = unsafe { result::compile_program(program, &job.options) };
    let mut response = CompileResponse {
        error: compiled.err().map(|error| format!("{:?}", error.0)),
        log: program_log(program, job.log_bytes),
        ..CompileResponse::default()
    };
    if response.error.is_none() {
        for expression in &expressions {
            let mut name: *const c_char = std::ptr::null();
            // SAFETY: the program is compiled; the name is valid as long as the program.
            response.names.push(unsafe {
                sys::nvrtcGetLoweredName(program, expression.as_ptr(), &raw mut name)
                    .result()
                    .context("NVRTC failed to return a mangled name")?;
                CStr::from_ptr(name).to_string_lossy().into_owned()
            });
        }
        response.cubin = program_bytes(program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
            .context("NVRTC failed to return machine code")?;
        // PTX only serves to describe the code. Without it there are fewer features.
        response.ptx =
            program_bytes(program, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX).unwrap_or_default();
    }
    Ok(response)
}

/// The provided headers in the form that NVRTC expects.
struct Headers {
    _texts: Vec<CString>,
    names: Vec<*const c_char>,
    contents: Vec<*const c_char>,
}

impl Headers {
    fn new(job: &CompileJob) -> anyhow::Result<Self> {
        let mut headers = Self {
            _texts: Vec::new(),
            names: Vec::new(),
            contents: Vec::new(),
        };
        for (name, contents) in &job.headers {
            let (name, contents) = (
                CString::new(name.as_str())?,
                CString::new(contents.as_str())?,
            );
            headers.names.push(name.as_ptr());
            headers.contents.push(contents.as_ptr());
            headers._texts.extend([name, contents]);
        }
        Ok(headers)
    }

    fn count(&self) -> i32 {
        self.names.len() as i32
    }
}

fn program_log(program: sys::nvrtcProgram, limit: usize) -> String {
    // SAFETY: the program is valid.
    let log = unsafe { result::get_program_log(program) }.unwrap_or_default();
    // The assembler's log follows after a zero byte.
    let bytes = log.into_iter().map(|byte| byte as u8);
    let bytes: Vec<u8> = bytes
        .map(|byte| if byte == 0 { b'\n' } else { byte })
        .take(limit)
        .collect();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

fn program_bytes(
    program: sys::nvrtcProgram,
    size_of: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
    get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the pointer is valid for writes.
    unsafe { size_of(program, &raw mut size) }.result()?;
    let mut bytes = vec![0u8; size];
    // SAFETY: the buffer has the size that the library requested.
    unsafe { get(program, bytes.as_mut_ptr().cast()) }.result()?;
    Ok(bytes)
}
