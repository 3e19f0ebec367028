//! The guardian: a small process that outlives kforge by a moment and ends what a killed kforge leaves behind.
//!
//! A process that is killed with SIGKILL cannot clean up. Its own children end with it (`process::ParentTie`), but not what these
//! have started, such as the parts of a compiler. So every child of the main process leads a group, or a session if it makes
//! groups itself, and reports it to the guardian before it runs its program. The guardian reads these reports from a socket. When
//! the socket closes, the main process has ended: the guardian kills every process of those groups and sessions, removes the
//! temporary folder, and ends. It has a session of its own, so a signal to kforge's process group does not reach it. It starts
//! nothing and holds no file of the user.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Name of the hidden command.
pub(crate) const GUARDIAN_COMMAND: &str = "__guardian";

/// A child leads this group from now on, and perhaps a session; followed by its process id.
const ADD: u8 = b'+';
/// The group has ended; followed by its id.
const FORGET: u8 = b'-';
/// Kill what is left of the group and of the session; followed by its id.
const END: u8 = b'!';
/// A folder to remove at the end; followed by its path.
const FOLDER_MARK: u8 = b'd';

/// How long the guardian keeps killing. A process that the system cannot end sooner waits for a broken device.
const KILL_LIMIT: Duration = Duration::from_secs(20);
const KILL_PAUSE: Duration = Duration::from_millis(5);

static ENABLED: AtomicBool = AtomicBool::new(false);
static SOCKET: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Allows this process to start a guardian with its first child. Only kforge's main process calls this: the program file must be
/// kforge, and the processes that work for it are guarded already.
pub(crate) fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

pub(crate) fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// The socket to the guardian, which is started if necessary. `None` if this process has none.
pub(super) fn socket() -> Option<RawFd> {
    if !is_enabled() {
        return None;
    }
    let socket = SOCKET.get_or_init(|| {
        let started = start();
        if let Err(error) = &started {
            tracing::warn!(
                "failed to start the process that cleans up if kforge is killed: {error}"
            );
        }
        started.ok()
    });
    socket.as_ref().map(AsRawFd::as_raw_fd)
}

fn start() -> io::Result<OwnedFd> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: writes two descriptors, which are owned from here on.
    let [own, other] = unsafe {
        if libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        ends.map(|end| OwnedFd::from_raw_fd(end))
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(GUARDIAN_COMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(other)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    // Not waited for: it ends after this process.
    command.spawn()?;
    Ok(own)
}

/// Reports the calling process, a new child that leads a group. Makes one system call, so it may run between fork and exec.
pub(super) fn report_child(socket: RawFd) {
    // SAFETY: no preconditions.
    send_number(socket, ADD, unsafe { libc::getpid() });
}

/// Reports that nothing is left of a group.
pub(super) fn forget(group: libc::pid_t) {
    if let Some(Some(socket)) = SOCKET.get() {
        send_number(socket.as_raw_fd(), FORGET, group);
    }
}

/// Makes the guardian kill what is left of a group, and of the session with the same leader.
pub(super) fn end(group: libc::pid_t) {
    if let Some(Some(socket)) = SOCKET.get() {
        send_number(socket.as_raw_fd(), END, group);
    }
}

/// Makes the guardian remove a folder when this process has ended.
pub(super) fn remove_at_end(folder: &Path) {
    if let Some(socket) = socket() {
        send(
            socket,
            &[&[FOLDER_MARK], folder.as_os_str().as_bytes()].concat(),
        );
    }
}

fn send_number(socket: RawFd, kind: u8, number: libc::pid_t) {
    let [a, b, c, d] = number.to_ne_bytes();
    send(socket, &[kind, a, b, c, d]);
}

/// A message that cannot be sent is lost: the guardian was killed, or is stopped. kforge works without it.
fn send(socket: RawFd, message: &[u8]) {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: reads the message only.
    unsafe {
        libc::send(socket, message.as_ptr().cast(), message.len(), flags);
    }
}

/// The guardian itself: serves standard input until the other end has closed, then cleans up.
pub(crate) fn serve() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignores a signal. The guardian ends when kforge does.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    let mut groups = ChildGroups::default();
    let mut folders = Vec::new();
    while let Some(message) = receive() {
        match message.split_first() {
            Some((&FOLDER_MARK, path)) => {
                folders.push(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())));
            }
            Some((&kind, number)) => {
                let Ok(number) = number.try_into().map(libc::pid_t::from_ne_bytes) else {
                    continue;
                };
                match kind {
                    ADD => groups.add(number),
                    END => groups.take(number).end(),
                    _ => drop(groups.take(number)),
                }
            }
            None => {}
        }
    }
    groups.end();
    for folder in folders {
        // If this fails, the next kforge removes the folder (`temporary`).
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// The next message. `None` if all other ends are closed: those of the main process, and those of children that have not
/// run their program yet.
fn receive() -> Option<Vec<u8>> {
    let mut buffer = vec![0u8; 8192];
    loop {
        // SAFETY: writes at most the buffer's length.
        let length = unsafe {
            libc::recv(
                libc::STDIN_FILENO,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        match usize::try_from(length) {
            Ok(0) => return None,
            Ok(length) => {
                buffer.truncate(length);
                return Some(buffer);
            }
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Groups and sessions with the start time of their leader, by which a later process of the same number is recognized.
#[derive(Default)]
struct ChildGroups(BTreeMap<libc::pid_t, Option<u64>>);

impl ChildGroups {
    fn add(&mut self, leader: libc::pid_t) {
        self.0.insert(leader, process_start(leader));
    }

    fn contains(&self, process: &ProcessEntry) -> bool {
        [process.group, process.session]
            .iter()
            .any(|id| self.0.contains_key(id))
    }

    /// This group and session alone.
    fn take(&mut self, group: libc::pid_t) -> Self {
        Self(self.0.remove_entry(&group).into_iter().collect())
    }

    /// Kills all processes of these groups and sessions, until none is left.
    fn end(mut self) {
        let started = Instant::now();
        while !self.0.is_empty() {
            let processes = list_processes();
            // A living leader that started at another time is a process of another program.
            self.0.retain(|group, started| {
                let leader = processes.iter().find(|process| process.id == *group);
                leader.is_none_or(|leader| *started == Some(leader.started))
            });
            let members = processes
                .iter()
                .filter(|process| !process.is_dead && self.contains(process));
            let mut found = false;
            for member in members {
                found = true;
                // SAFETY: two numbers.
                unsafe {
                    libc::kill(member.id, libc::SIGKILL);
                }
            }
            if !found || started.elapsed() > KILL_LIMIT {
                return;
            }
            std::thread::sleep(KILL_PAUSE);
        }
    }
}

/// When a process started, in clock ticks since the machine started. A later process with the same number has another start.
/// `None` if there is no such process.
pub(crate) fn process_start(id: libc::pid_t) -> Option<u64> {
    ProcessEntry::read(id).map(|process| process.started)
}

/// A process as `/proc/ID/stat` describes it.
struct ProcessEntry {
    id: libc::pid_t,
    /// Ended, but not reaped.
    is_dead: bool,
    group: libc::pid_t,
    session: libc::pid_t,
    /// In clock ticks since the machine started.
    started: u64,
}

impl ProcessEntry {
    /// `None` if there is no such process.
    fn read(id: libc::pid_t) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{id}/stat")).ok()?;
        // The second field is the name in parentheses, which may contain anything.
        let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
        let text = String::from_utf8_lossy(&text[end_of_name + 1..]);
        let fields: Vec<_> = text.split_ascii_whitespace().collect();
        Some(Self {
            id,
            is_dead: matches!(*fields.first()?, "Z" | "X"),
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

fn list_processes() -> Vec<ProcessEntry> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(ProcessEntry::read)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ending_a_session_kills_its_orphans_and_no_other_process() {
        let mut command = Command::new("sh");
        // The shell ends at once; its two children stay, one of them stopped.
        command
            .args(["-c", "sleep 100 & sh -c 'kill -STOP $$' & exit 0"])
            .stdout(Stdio::null());
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            });
        }
        let mut leader = command.spawn().unwrap();
        let id = leader.id() as libc::pid_t;
        let mut groups = ChildGroups::default();
        groups.add(id);
        leader.wait().unwrap();
        let members = || {
            let all = list_processes().into_iter();
            let living = all.filter(|process| !process.is_dead && process.session == id);
            living.count()
        };
        assert_eq!(members(), 2);
        // A session of the same number whose leader started at another time.
        let own = std::process::id() as libc::pid_t;
        let other = ChildGroups(BTreeMap::from([(own, Some(1))]));
        other.end();
        groups.end();
        assert_eq!(members(), 0);
    }
}
