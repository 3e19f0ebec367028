//! Maps instructions of an executable to lines of the kernel file, from the compiler's debug information.
//!
//! The executable was made from a candidate's source, so the result is evidence for people and never decides a verdict.

use std::path::Path;

use addr2line::Loader;

use super::diagnostics::KERNEL_FILE;

/// The line table of an executable. Empty if the executable has none.
pub(super) struct LineTable {
    loader: Option<Loader>,
}

impl LineTable {
    pub(super) fn open(executable: &Path) -> Self {
        Self {
            loader: Loader::new(executable).ok(),
        }
    }

    /// The line of the call or access just before a return address. Of inlined functions the innermost one in the kernel file
    /// counts; the others are in kforge's own headers.
    pub(super) fn line_of(&self, return_address: u64) -> Option<u32> {
        let address = return_address.checked_sub(1)?;
        let mut frames = self.loader.as_ref()?.find_frames(address).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            let line = frame.location.and_then(|location| {
                let is_kernel = location.file.is_some_and(|file| {
                    file == KERNEL_FILE
                        || file
                            .strip_suffix(KERNEL_FILE)
                            .is_some_and(|rest| rest.ends_with('/'))
                });
                location.line.filter(|line| is_kernel && *line > 0)
            });
            if line.is_some() {
                return line;
            }
        }
        None
    }
}
