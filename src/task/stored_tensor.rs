//! Inputs whose values are in a safetensors file, which a workload names with `"type": "safetensors"`.
//!
//! `describe` reads the headers of the files when a task is found; a judge reads the values when it needs them, and refuses a file that has
//! changed since. So a message to a worker has the place of a tensor and a fingerprint, and never its values, which may be gigabytes.
//! Writes nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DType;
use crate::base::{Digest, Failure};

/// The longest header that is read, as in the format's own library.
const MAX_HEADER: u64 = 100_000_000;
/// How much of each end of a tensor is part of its fingerprint, in bytes.
const FINGERPRINT_BYTES: u64 = 64 << 10;

/// A tensor in a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTensor {
    /// The absolute path of the file.
    pub file: PathBuf,
    /// Its name in the file.
    pub key: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    /// Offset of the values in the file, in bytes.
    pub start: u64,
    /// Length of the values in bytes.
    pub length: u64,
    /// A hash of the description and of both ends of the values.
    pub fingerprint: Digest,
}

/// What is known about a tensor that a workload names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NamedTensor {
    Found(StoredTensor),
    /// There is no such tensor: what is wrong, and what to do.
    Wrong {
        message: String,
        hint: String,
    },
}

impl NamedTensor {
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }
}

/// The tensors of a task, by the `path` and `tensor_key` of the workloads that name them: see [`name_of`].
pub(crate) type NamedTensors = BTreeMap<String, NamedTensor>;

/// The name of a tensor in [`NamedTensors`].
pub(super) fn name_of(path: &str, key: &str) -> String {
    format!("{path}#{key}")
}

impl StoredTensor {
    /// Reads the values, in the byte order of the file, which is little-endian.
    ///
    /// # Errors
    /// If the file cannot be read, or is another one than when the task was found.
    pub(crate) fn read(&self) -> Result<Vec<u8>, Failure> {
        let changed = |reason: String| {
            Failure::environment(format!(
                "the tensor `{}` of `{}` {reason}",
                self.key,
                self.file.display()
            ))
            .hint("keep the files of a dataset as they are while kforge works with them")
        };
        let file = File::open(&self.file)
            .map_err(|error| changed(format!("cannot be opened any more: {error}")))?;
        let mut values = vec![0; usize::try_from(self.length).unwrap_or(0)];
        file.read_exact_at(&mut values, self.start)
            .map_err(|error| changed(format!("cannot be read: {error}")))?;
        let ends = end_ranges(self.length).map(|(from, to)| &values[from as usize..to as usize]);
        if self.fingerprint_of(ends) != self.fingerprint {
            return Err(changed(
                "has other values than when the task was read".to_owned(),
            ));
        }
        Ok(values)
    }

    /// One element of a tensor of integers; a negative index counts from the end. `None` if there is none.
    pub(super) fn integer(&self, index: i64) -> Option<i64> {
        if self.dtype.is_float() {
            return None;
        }
        let bytes = self.dtype.bytes();
        let count = i64::try_from(self.length / bytes).ok()?;
        let index = if index < 0 { count + index } else { index };
        if !(0..count).contains(&index) {
            return None;
        }
        let mut element = [0; 8];
        let element = &mut element[..bytes as usize];
        let file = File::open(&self.file).ok()?;
        let start = self.start + index as u64 * bytes;
        file.read_exact_at(element, start).ok()?;
        Some(match *element {
            [a] => i64::from(i8::from_le_bytes([a])),
            [a, b] => i64::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return None,
        })
    }

    fn fingerprint_of(&self, ends: [&[u8]; 2]) -> Digest {
        let description = format!("{} {} {:?}", self.key, self.dtype, self.shape);
        Digest::of_parts([description.as_bytes(), ends[0], ends[1]])
    }
}

/// The first and the last bytes of values of some length. They overlap if the values are short.
fn end_ranges(length: u64) -> [(u64, u64); 2] {
    [
        (0, length.min(FINGERPRINT_BYTES)),
        (length.saturating_sub(FINGERPRINT_BYTES), length),
    ]
}

/// Describes every tensor that lines of `workloads.jsonl` name. Paths are relative to `root`. Lines that cannot be read are left out:
/// `workload` reports them.
pub(super) fn describe(workloads: &str, root: &Path) -> NamedTensors {
    let mut named = NamedTensors::new();
    let mut files: BTreeMap<PathBuf, Result<TensorFile, (String, String)>> = BTreeMap::new();
    for line in workloads.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let inputs = line.get("workload").unwrap_or(&line).get("inputs");
        for input in inputs.and_then(Value::as_object).into_iter().flatten() {
            let (Some(path), Some(key)) = (
                input.1.get("path").and_then(Value::as_str),
                input.1.get("tensor_key").and_then(Value::as_str),
            ) else {
                continue;
            };
            let file = root.join(path);
            let opened = files
                .entry(file.clone())
                .or_insert_with(|| TensorFile::open(&file));
            let tensor = match opened {
                Ok(opened) => opened.tensor(key),
                Err((message, hint)) => Err((message.clone(), hint.clone())),
            };
            named.insert(
                name_of(path, key),
                match tensor {
                    Ok(tensor) => NamedTensor::Found(tensor),
                    Err((message, hint)) => NamedTensor::Wrong { message, hint },
                },
            );
        }
    }
    named
}

/// A safetensors file, of which only the header was read.
struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Offset of the first tensor.
    data: u64,
}

impl TensorFile {
    /// Reads the header. An error says what is wrong, and what to do.
    fn open(path: &Path) -> Result<Self, (String, String)> {
        let name = path.display();
        let unreadable = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                let hint = "paths are relative to the folder of the dataset: is the dataset complete? Large files of a repository may need `git lfs pull`";
                return (format!("no such file: `{name}`"), hint.to_owned());
            }
            let hint = "check that you may read it".to_owned();
            (format!("`{name}` cannot be read: {error}"), hint)
        };
        let damaged = |reason: &str| {
            let hint = "is it complete? A file of a few lines may be a pointer of Git LFS: `git lfs pull` gets the file itself";
            (
                format!("`{name}` is no safetensors file: {reason}"),
                hint.to_owned(),
            )
        };
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut prefix = [0; 8];
        file.read_exact_at(&mut prefix, 0)
            .map_err(|_| damaged("it is too short"))?;
        let length = u64::from_le_bytes(prefix);
        if length > MAX_HEADER || length > size.saturating_sub(8) {
            return Err(damaged("the length of its header is impossible"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(unreadable)?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(&error.to_string()))?;
        let data = 8 + length;
        if data + header.data_len() as u64 != size {
            return Err(damaged("its length is not the one that its header gives"));
        }
        Ok(Self {
            path: path.canonicalize().map_err(unreadable)?,
            file,
            header,
            data,
        })
    }

    fn tensor(&self, key: &str) -> Result<StoredTensor, (String, String)> {
        let name = self.path.display();
        let Some(info) = self.header.info(key) else {
            let known = self.header.offset_keys();
            let hint = crate::base::text::did_you_mean(key, known.iter().map(String::as_str));
            return Err((format!("`{name}` has no tensor `{key}`"), hint));
        };
        let dtype = dtype_of(info.dtype).ok_or_else(|| {
            let message = format!(
                "the tensor `{key}` of `{name}` has the dtype {:?}, which kforge does not know",
                info.dtype
            );
            let hint = "write the tensor again with a dtype of the definition";
            (message, hint.to_owned())
        })?;
        let (start, end) = info.data_offsets;
        let mut tensor = StoredTensor {
            file: self.path.clone(),
            key: key.to_owned(),
            dtype,
            shape: info.shape.iter().map(|size| *size as u64).collect(),
            start: self.data + start as u64,
            length: (end - start) as u64,
            fingerprint: Digest::of([]),
        };
        let mut ends = [Vec::new(), Vec::new()];
        for (bytes, (from, to)) in ends.iter_mut().zip(end_ranges(tensor.length)) {
            bytes.resize((to - from) as usize, 0);
            (self.file)
                .read_exact_at(bytes, tensor.start + from)
                .map_err(|error| {
                    let hint = "check that you may read it".to_owned();
                    (format!("`{name}` cannot be read: {error}"), hint)
                })?;
        }
        tensor.fingerprint = tensor.fingerprint_of([&ends[0], &ends[1]]);
        Ok(tensor)
    }
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<DType> {
    use safetensors::Dtype;
    Some(match dtype {
        Dtype::F64 => DType::Float64,
        Dtype::F32 => DType::Float32,
        Dtype::F16 => DType::Float16,
        Dtype::BF16 => DType::BFloat16,
        Dtype::F8_E4M3 => DType::Float8E4M3,
        Dtype::F8_E5M2 => DType::Float8E5M2,
        Dtype::I64 => DType::Int64,
        Dtype::I32 => DType::Int32,
        Dtype::I16 => DType::Int16,
        Dtype::I8 => DType::Int8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}
