//! Which line of the kernel file an instruction belongs to, from what the compiler left in the executable.
//!
//! The executable was made from a candidate's source: what is read from it is evidence for people, never a reason for a verdict.

use std::path::Path;

use addr2line::Loader;

use super::diagnostics::KERNEL_FILE;

/// An executable's table of lines. Empty where there is none.
pub(super) struct LineTable {
    loader: Option<Loader>,
}

impl LineTable {
    pub(super) fn open(executable: &Path) -> Self {
        Self {
            loader: Loader::new(executable).ok(),
        }
    }

    /// The line of the call or access that a return address lies behind. Of functions that were put into one another the
    /// innermost that stands in the kernel file counts: the others are kforge's own headers.
    pub(super) fn line_of(&self, return_address: u64) -> Option<u32> {
        let address = return_address.checked_sub(1)?;
        let mut frames = self.loader.as_ref()?.find_frames(address).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            let line = frame.location.and_then(|place| {
                let is_kernel = place.file.is_some_and(|file| {
                    file == KERNEL_FILE
                        || file
                            .strip_suffix(KERNEL_FILE)
                            .is_some_and(|rest| rest.ends_with('/'))
                });
                place.line.filter(|line| is_kernel && *line > 0)
            });
            if line.is_some() {
                return line;
            }
        }
        None
    }
}
