//! The report of a run that works: what happens to its file, as the system tells it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use crate::program::Workspace;

/// The shortest time between two reports in this test.
const INTERVAL: Duration = Duration::from_secs(2);

/// A model that takes a while to say nothing of use: the journal grows, and nothing is judged.
const SLOW_MODEL: &str = "--set=llm.models=[{provider: command, command: [sh, -c, 'cat > /dev/null; sleep 0.3; echo no'], max_output_tokens: 1000}]";
const ASK_ONLY: &str = "--set=search.operators={propose: 1, edit: 0, crossover: 0, repair: 0, autotune: 0, mutate: 0, recombine: 0}";

/// Something that happened to a file.
struct FileChange {
    /// What `inotify` calls it.
    mask: u32,
    /// When the file was last written, and what it has, just after the change.
    written: SystemTime,
    contents: String,
}

/// Reports every change of the file `name` in a folder until the folder is removed.
fn changes_of(folder: &Path, name: &'static str) -> Receiver<FileChange> {
    let changes = libc::IN_CREATE | libc::IN_MODIFY | libc::IN_DELETE | libc::IN_MOVE;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).unwrap();
    // SAFETY: a call with a number.
    let queue = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    assert!(queue >= 0);
    // SAFETY: the path is a text that ends with a zero and lives during the call.
    let watched = unsafe { libc::inotify_add_watch(queue, path.as_ptr(), changes) };
    assert!(watched >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and belongs to nothing else.
    let mut queue = unsafe { std::fs::File::from_raw_fd(queue) };
    let (sender, receiver) = channel();
    let file = folder.join(name);
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = queue.read(&mut bytes) {
            for mask in events_of(&bytes[..count], name) {
                let metadata = std::fs::metadata(&file);
                let written = metadata.and_then(|file| file.modified());
                // The test is over once the file is gone.
                let (Ok(written), Ok(contents)) = (written, std::fs::read_to_string(&file)) else {
                    return;
                };
                let change = FileChange {
                    mask,
                    written,
                    contents,
                };
                if sender.send(change).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// The masks of the events of one file. An event is: watch, mask, cookie, length of the name, the name and zeros.
fn events_of(bytes: &[u8], name: &str) -> Vec<u32> {
    let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut masks, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = number(at + 12) as usize;
        let text = &bytes[at + 16..at + 16 + length];
        let text: Vec<u8> = text.iter().copied().take_while(|byte| *byte != 0).collect();
        if std::ffi::OsString::from_vec(text) == OsStr::new(name) {
            masks.push(number(at + 4));
        }
        at += 16 + length;
    }
    masks
}

#[test]
fn report_of_a_working_run_is_replaced_as_a_whole_and_not_more_often_than_told() {
    let folder = Workspace::with_small_task();
    let output = folder.path().join("out");
    std::fs::create_dir(&output).unwrap();
    let changes = changes_of(&output, "report.html");
    let started = SystemTime::now();
    let mut command = folder.command(&[
        "evolve",
        "softmax",
        "--backend=cpu",
        "--output=out",
        "--steps=100000",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.3",
        "--set=budget.confirm_share=0",
        SLOW_MODEL,
        ASK_ONLY,
    ]);
    command.env("KFORGE_REPORT_SECONDS", INTERVAL.as_secs().to_string());
    let piped = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap();
    let limit = Duration::from_secs(300);
    let next = || changes.recv_timeout(limit).expect("a report");
    let mut seen = vec![next(), next()];
    // SAFETY: the child has not been waited for, so the number still belongs to it.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{stderr}");
    seen.push(next());
    seen.extend(changes.try_iter());

    // Nobody ever sees a part of it: each time it is another file, which was complete before it got its name.
    for change in &seen {
        assert_eq!(change.mask, libc::IN_MOVED_TO, "written in place");
        let (start, end) = (change.contents.trim_start(), change.contents.trim_end());
        assert!(start.starts_with("<!doctype html>"), "{}", change.contents);
        assert!(end.ends_with("</html>"), "{}", change.contents);
    }
    // Clocks of file systems are a little behind.
    let tick = Duration::from_millis(50);
    let times = std::iter::once(started).chain(seen.iter().map(|change| change.written));
    let times: Vec<_> = times.collect();
    // The last one was written because the run ended.
    let (last, working) = times.split_last().unwrap();
    for pair in working.windows(2) {
        let between = pair[1].duration_since(pair[0]).unwrap_or_default();
        assert!(between + tick >= INTERVAL, "written after {between:?}");
    }
    assert!(last >= working.last().unwrap());
    assert_ne!(seen[0].contents, seen[1].contents);
}
