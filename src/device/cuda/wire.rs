//! The protocol between kforge and its NVRTC child process: one request on standard input, one response on standard output.
//!
//! Results are returned as bytes, never as paths. `nvrtc_process` is the parent's side, `nvrtc` the child's.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Size limit of a message.
const MAX_MESSAGE_BYTES: u64 = 256 << 20;

/// A request to the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CompileRequest {
    /// Full path of the NVRTC library.
    pub(super) library: PathBuf,
    /// `None`: only return the library's version.
    pub(super) job: Option<CompileJob>,
}

/// What to compile, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CompileJob {
    pub(super) source: String,
    pub(super) options: Vec<String>,
    /// C++ expressions whose mangled names are returned.
    pub(super) expressions: Vec<String>,
    /// Headers without a file: name and contents.
    pub(super) headers: Vec<(String, String)>,
    /// Size limit of the returned log.
    pub(super) log_bytes: usize,
}

/// The child's response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CompileResponse {
    /// NVRTC's version: major and minor.
    pub(super) version: (i32, i32),
    /// NVRTC's error code by name; `None` if the source compiled.
    pub(super) error: Option<String>,
    pub(super) log: String,
    /// The mangled names of the request's expressions, in their order.
    pub(super) names: Vec<String>,
    #[serde(skip)]
    pub(super) cubin: Vec<u8>,
    #[serde(skip)]
    pub(super) ptx: Vec<u8>,
}

impl CompileRequest {
    pub(super) fn write(&self, output: impl Write) -> io::Result<()> {
        write_message(output, self, &[])
    }

    pub(super) fn read(input: impl Read) -> io::Result<Self> {
        Ok(read_message(input)?.0)
    }
}

impl CompileResponse {
    pub(super) fn write(&self, output: impl Write) -> io::Result<()> {
        write_message(output, self, &[&self.cubin, &self.ptx])
    }

    pub(super) fn read(input: impl Read) -> io::Result<Self> {
        let (response, mut parts): (Self, _) = read_message(input)?;
        let ptx = parts.pop().unwrap_or_default();
        let cubin = parts.pop().unwrap_or_default();
        Ok(Self {
            cubin,
            ptx,
            ..response
        })
    }
}

/// Writes the parts of a message, each after its length. The first part is JSON.
fn write_message(mut output: impl Write, head: &impl Serialize, parts: &[&[u8]]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    for part in std::iter::once(head.as_slice()).chain(parts.iter().copied()) {
        output.write_all(&(part.len() as u64).to_le_bytes())?;
        output.write_all(part)?;
    }
    output.flush()
}

/// Reads a message: the first part as JSON, the others as bytes.
fn read_message<T: DeserializeOwned>(input: impl Read) -> io::Result<(T, Vec<Vec<u8>>)> {
    let mut bytes = Vec::new();
    input.take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut parts = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > behind.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (part, behind) = behind.split_at(length);
        parts.push(part);
        rest = behind;
    }
    let Some((head, parts)) = parts.split_first() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let parts = parts.iter().map(|part| part.to_vec()).collect();
    Ok((serde_json::from_slice(head)?, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_truncated_ones_fail() {
        let response = CompileResponse {
            version: (13, 0),
            log: "é\n".to_owned(),
            names: vec!["_Z1kv".to_owned()],
            cubin: vec![0, 1, 255],
            ptx: b".version 9.0".to_vec(),
            ..CompileResponse::default()
        };
        let mut bytes = Vec::new();
        response.write(&mut bytes).unwrap();
        assert_eq!(CompileResponse::read(bytes.as_slice()).unwrap(), response);
        for end in 0..16 {
            assert!(CompileResponse::read(&bytes[..end]).is_err());
        }
    }
}
