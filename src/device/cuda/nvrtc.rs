//! The compiling child's side: loads NVRTC, compiles what standard input holds, answers on standard output. Runs inside
//! `kforge __nvrtc`, confined before its first instruction.
//!
//! Opens no file itself; what NVRTC may open is the parent's to say.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use cudarc::nvrtc::{result, sys};

use super::wire::{CompileJob, CompileRequest, CompileResponse};

/// Answers one request.
///
/// # Errors
/// Where the library cannot be used; a source that does not compile is an answer.
pub(crate) fn serve() -> anyhow::Result<()> {
    let request =
        CompileRequest::read(io::stdin().lock()).context("the request is not understood")?;
    load_library(&request.library)?;
    let mut answer = match &request.work {
        Some(work) => compile(work)?,
        None => CompileResponse::default(),
    };
    answer.version = version()?;
    answer
        .write(io::stdout().lock())
        .context("the answer could not be written")
}

/// By its full path: under its plain name it is then found again, wherever it lies.
fn load_library(library: &Path) -> anyhow::Result<()> {
    let path = CString::new(library.as_os_str().as_bytes())?;
    // SAFETY: a string that ends in a zero; the library stays loaded for good.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: a string that lives until the next call, or null.
        let reason = unsafe {
            let reason = libc::dlerror();
            (!reason.is_null()).then(|| CStr::from_ptr(reason).to_string_lossy().into_owned())
        };
        bail!("{}", reason.unwrap_or_default());
    }
    // SAFETY: only looks for the library; without it the calls below would panic.
    if !unsafe { sys::is_culib_present() } {
        bail!(
            "`{}` is not known by its plain name once it is loaded",
            library.display()
        );
    }
    Ok(())
}

fn version() -> anyhow::Result<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places to write.
    let asked = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    asked.result().context("NVRTC does not tell its version")?;
    Ok((major, minor))
}

fn compile(work: &CompileJob) -> anyhow::Result<CompileResponse> {
    // What a candidate wrote may hold a zero; to a compiler that is the end.
    let text = |text: &str| {
        let end = text.find('\0').unwrap_or(text.len());
        CString::new(&text[..end])
    };
    let source = text(&work.source)?;
    let headers = Headers::new(work)?;
    let mut program: sys::nvrtcProgram = std::ptr::null_mut();
    // SAFETY: strings that end in a zero, and two lists of the same length; all outlive the program.
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
    created.result().context("NVRTC takes no program")?;
    let expressions = work.expressions.iter().map(|expression| text(expression));
    let expressions = expressions.collect::<Result<Vec<_>, _>>()?;
    for expression in &expressions {
        // SAFETY: the program lives; the expression outlives it.
        let added = unsafe { sys::nvrtcAddNameExpression(program, expression.as_ptr()) };
        added.result().context("NVRTC takes no name")?;
    }
    // SAFETY: the program was made above.
    let compiled = unsafe { result::compile_program(program, &work.options) };
    let mut answer = CompileResponse {
        error: compiled.err().map(|error| format!("{:?}", error.0)),
        log: program_log(program, work.log_bytes),
        ..CompileResponse::default()
    };
    if answer.error.is_none() {
        for expression in &expressions {
            let mut name: *const c_char = std::ptr::null();
            // SAFETY: the program is compiled; the name lives as long as it does.
            answer.names.push(unsafe {
                sys::nvrtcGetLoweredName(program, expression.as_ptr(), &raw mut name)
                    .result()
                    .context("NVRTC does not tell a name")?;
                CStr::from_ptr(name).to_string_lossy().into_owned()
            });
        }
        answer.cubin = program_bytes(program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
            .context("NVRTC gives no machine code")?;
        // Only what is told about the code is made from it: where it is kept back, there is less to tell.
        answer.ptx =
            program_bytes(program, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX).unwrap_or_default();
    }
    Ok(answer)
}

/// Strings and the lists of them that NVRTC wants.
struct Headers {
    _texts: Vec<CString>,
    names: Vec<*const c_char>,
    contents: Vec<*const c_char>,
}

impl Headers {
    fn new(work: &CompileJob) -> anyhow::Result<Self> {
        let mut headers = Self {
            _texts: Vec::new(),
            names: Vec::new(),
            contents: Vec::new(),
        };
        for (name, contents) in &work.headers {
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

fn program_log(program: sys::nvrtcProgram, most: usize) -> String {
    // SAFETY: the program lives.
    let log = unsafe { result::get_program_log(program) }.unwrap_or_default();
    // The assembler's words stand behind a zero of their own.
    let bytes = log.into_iter().map(|byte| byte as u8);
    let bytes: Vec<u8> = bytes
        .map(|byte| if byte == 0 { b'\n' } else { byte })
        .take(most)
        .collect();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

fn program_bytes(
    program: sys::nvrtcProgram,
    size_of: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
    get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: a place to write.
    unsafe { size_of(program, &raw mut size) }.result()?;
    let mut bytes = vec![0u8; size];
    // SAFETY: as many bytes as it asked for.
    unsafe { get(program, bytes.as_mut_ptr().cast()) }.result()?;
    Ok(bytes)
}
