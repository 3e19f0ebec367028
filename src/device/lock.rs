//! The lock file of a device: its path, and the folder that all processes of a machine share.
//!
//! Takes no lock itself: `eval::TimingLock` does.

use std::path::{Path, PathBuf};

/// The environment variable that names the folder of lock files.
const FOLDER_VARIABLE: &str = "KFORGE_LOCK_DIR";

/// The inode of the first namespace of process numbers, a constant of Linux. A container has another one.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// The file whose lock keeps other kforge processes away while a device is timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFile {
    pub path: PathBuf,
    /// Whether the device is the host. Then nothing else of kforge, compilers included, may run during a timed launch.
    pub is_host: bool,
}

/// The folder of lock files: the same one for all processes of the machine.
///
/// `KFORGE_LOCK_DIR`, else `/tmp`. `/tmp` comes before `TMPDIR`, because batch systems give every job its own temporary folder: a
/// lock there would not exclude other jobs.
pub(super) fn lock_folder() -> PathBuf {
    if let Some(folder) = chosen_folder() {
        return folder;
    }
    // SAFETY: a constant string that ends in a zero.
    let is_writable = unsafe { libc::access(c"/tmp".as_ptr(), libc::W_OK | libc::X_OK) } == 0;
    if is_writable {
        "/tmp".into()
    } else {
        std::env::temp_dir()
    }
}

fn chosen_folder() -> Option<PathBuf> {
    let folder = std::env::var_os(FOLDER_VARIABLE)?;
    (!folder.is_empty()).then(|| folder.into())
}

/// Which processes the timing locks exclude.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockScope {
    /// The folder of the lock files.
    pub(crate) folder: PathBuf,
    /// Why processes elsewhere on the machine may use other lock files. `None` if all of them use these.
    pub(crate) private: Option<String>,
}

/// Finds out whether the whole machine shares the lock folder, as far as this process can see.
pub(crate) fn lock_scope() -> LockScope {
    let folder = lock_folder();
    if chosen_folder().is_some() {
        return LockScope {
            folder,
            private: None,
        };
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let is_container = namespace != Path::new(FIRST_NAMESPACE)
        || Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists();
    LockScope {
        private: why_private(&folder, &mounts, is_container),
        folder,
    }
}

/// Why a folder is not the machine's own. `mounts`: `/proc/self/mountinfo`.
fn why_private(folder: &Path, mounts: &str, is_container: bool) -> Option<String> {
    // The last of several mounts at one place hides the others. Fields 4 and 5: the folder that is mounted, and where.
    let mount = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (Path::new(place) == folder).then_some(root)
    });
    let is_same_name = mount.is_some_and(|root| Path::new(root) == folder);
    match mount {
        // A service or a batch job with a temporary folder of its own.
        Some(root) if root != "/" && !is_same_name => Some(format!(
            "`{}` is `{root}`, which belongs to this job or service",
            folder.display()
        )),
        _ if is_container && !is_same_name => {
            Some(format!("`{}` belongs to this container", folder.display()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_temporary_folders_are_recognized() {
        let root = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n";
        let mounted = |root: &str| format!("40 21 0:35 {root} /tmp rw - tmpfs tmpfs rw\n");
        let tmp = Path::new("/tmp");
        let private =
            |mount: &str, is_container| why_private(tmp, &format!("{root}{mount}"), is_container);
        // On the machine itself: `/tmp` of the root file system, or a file system of its own.
        assert_eq!(private("", false), None);
        assert_eq!(private(&mounted("/"), false), None);
        // `PrivateTmp=` of systemd, and a job of Slurm.
        let service = private(&mounted("/tmp/systemd-private-1-x.service/tmp"), false).unwrap();
        assert!(service.contains("systemd-private"), "{service}");
        assert!(private(&mounted("/1234/.1234/_tmp"), false).is_some());
        // A container: its own `/tmp`, a new file system, or the machine's.
        assert!(private("", true).unwrap().contains("container"));
        assert!(private(&mounted("/"), true).is_some());
        assert_eq!(private(&mounted("/tmp"), true), None);
        // The last mount counts.
        assert!(private(&(mounted("/tmp") + &mounted("/x")), true).is_some());
    }
}
