//! `kforge watch` on a disk that shows a reader what network disks show: new files in the place of old ones, with old times; lines that end
//! in the middle; zeros in place of bytes that are under way; an older copy of a file; files in another order than they were written.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::program::Workspace;
use crate::watch::{OnTerminal, finished_search};

/// The lines of a journal that is complete, and the run's folder as a reader on another machine sees it.
struct NetworkDisk<'a> {
    folder: &'a Workspace,
    journal: String,
    run_journal: String,
}

impl<'a> NetworkDisk<'a> {
    /// Copies the record of the run `out` to the folder `seen`. Its journals are not visible yet.
    fn new(folder: &'a Workspace) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let own_host = format!(r#""host":"{}""#, host.trim());
        let run_journal = folder.read("out/events.jsonl");
        let disk = Self {
            folder,
            journal: folder.read("out/softmax/events.jsonl"),
            run_journal: run_journal.replace(&own_host, r#""host":"elsewhere""#),
        };
        disk.show("run.yaml", folder.read("out/run.yaml").as_bytes());
        disk
    }

    /// Puts a file in the place of what was there. All have the same time.
    fn show(&self, name: &str, contents: &[u8]) {
        let path = self.folder.path().join("seen").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        std::fs::write(&new, contents).unwrap();
        let file = std::fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    /// Shows the first bytes of the task's journal.
    fn show_steps(&self, length: usize) {
        self.show("softmax/events.jsonl", &self.journal.as_bytes()[..length]);
    }

    fn show_run(&self, is_ended: bool) {
        let lines = self.run_journal.lines();
        let shown = lines.filter(|line| is_ended || !line.contains(r#""event":"task_ended""#));
        let text: String = shown.map(|line| format!("{line}\n")).collect();
        self.show("events.jsonl", text.as_bytes());
    }

    /// Where the line ends that has the first verdict of a kernel that passed.
    fn end_of_first_passed(&self) -> Option<usize> {
        let mut end = 0;
        for line in self.journal.split_inclusive('\n') {
            end += line.len();
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            if event["event"] == "judged" && event["verdict"]["status"] == "passed" {
                return Some(end);
            }
        }
        None
    }

    /// Where the first line that contains a text starts and ends.
    fn line_with(&self, text: &str) -> (usize, usize) {
        let found = self.journal.find(text).expect(text);
        let start = self.journal[..found].rfind('\n').map_or(0, |at| at + 1);
        let end = found + self.journal[found..].find('\n').unwrap() + 1;
        (start, end)
    }
}

/// What is printed on a terminal. A thread of its own reads it, and has another reference, until the terminal is closed.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<String>>);

impl Screen {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The number of steps in each block that was drawn.
    fn drawn_steps(&self) -> Vec<u64> {
        let plain = console::strip_ansi_codes(&self.text()).into_owned();
        let parts = plain.split("step ").skip(1);
        let counts = parts.filter_map(|part| part.split_once("/5")?.0.parse().ok());
        counts.collect()
    }

    /// Waits until another look at the files has ended.
    fn wait_for_look(&self) {
        let before = self.drawn_steps().len();
        self.wait_until(|steps| steps.len() > before);
    }

    /// Waits for the numbers of steps to be something.
    fn wait_until(&self, is_so: impl Fn(&[u64]) -> bool) {
        let started = Instant::now();
        while !is_so(&self.drawn_steps()) {
            let is_over = Arc::strong_count(&self.0) == 1;
            let is_late = started.elapsed() > Duration::from_secs(300);
            assert!(!is_over && !is_late, "{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn read_all(mut terminal: std::fs::File) -> (Screen, std::thread::JoinHandle<()>) {
    let screen = Screen::default();
    let of_thread = screen.clone();
    let reading = std::thread::spawn(move || {
        let mut part = [0; 4096];
        // A terminal that was closed gives an error.
        while let Ok(count @ 1..) = terminal.read(&mut part) {
            let text = String::from_utf8_lossy(&part[..count]);
            of_thread.0.lock().unwrap().push_str(&text);
        }
    });
    (screen, reading)
}

#[test]
fn watch_believes_contents_alone_and_only_what_lasts() {
    let folder = finished_search();
    let disk = NetworkDisk::new(&folder);
    let (first_verdict, after_verdict) = disk.line_with(r#""event":"judged""#);
    // On a very busy machine nothing can be timed, and so nothing passes.
    let first_passed = disk.end_of_first_passed();
    let some_steps = first_passed.unwrap_or(after_verdict);
    // A line that is not whole is all that is new.
    disk.show_run(false);
    disk.show_steps(first_verdict + 100);
    let mut watching = OnTerminal::start(folder.command(&["watch", "seen"]), 100);
    let (screen, reading) = read_all(watching.terminal.try_clone().unwrap());
    screen.wait_for_look();

    // The file is longer, and the last part of it is zeros.
    let mut under_way = disk.journal.as_bytes()[..some_steps].to_vec();
    under_way[first_verdict + 200..].fill(0);
    disk.show("softmax/events.jsonl", &under_way);
    screen.wait_for_look();
    // The bytes have arrived: length and time are the same.
    disk.show_steps(some_steps);
    screen.wait_for_look();
    assert_ne!(screen.drawn_steps().last(), Some(&0), "{}", screen.text());
    // An older copy, and the newer one again.
    disk.show_steps(first_verdict);
    screen.wait_for_look();
    disk.show_steps(some_steps);
    screen.wait_for_look();
    // The end of the run is visible before its last steps.
    disk.show_run(true);
    screen.wait_for_look();
    screen.wait_for_look();
    disk.show_steps(disk.journal.len());
    let code = watching.child.wait().unwrap().code();
    drop(watching);
    reading.join().unwrap();

    let text = console::strip_ansi_codes(&screen.text()).into_owned();
    assert!(!text.contains("damaged"), "{text}");
    assert!(text.contains("the run has ended"), "{text}");
    let steps = screen.drawn_steps();
    assert!(steps.is_sorted() && steps.last() == Some(&5), "{steps:?}");
    let improvements: Vec<_> = text
        .lines()
        .filter(|line| line.contains("the fastest so far"))
        .collect();
    let distinct: std::collections::BTreeSet<_> = improvements.iter().collect();
    assert!(first_passed.is_none() || !improvements.is_empty(), "{text}");
    assert_eq!(improvements.len(), distinct.len(), "{text}");
    // It says of the copy what it says of the run itself.
    let own = folder.run(&["watch", "out", "--once"]);
    let copied = folder.run(&["watch", "seen", "--once"]);
    assert_eq!(
        copied.stdout,
        own.stdout.replace("report out", "report seen")
    );
    assert_eq!((code, copied.code), (Some(own.code), own.code));
}

#[test]
fn watch_reads_a_run_again_that_took_the_place_of_another() {
    let folder = finished_search();
    let disk = NetworkDisk::new(&folder);
    disk.show_run(false);
    disk.show_steps(disk.journal.len());
    let mut watching = OnTerminal::start(folder.command(&["watch", "seen"]), 100);
    let (screen, reading) = read_all(watching.terminal.try_clone().unwrap());
    screen.wait_for_look();
    assert_eq!(screen.drawn_steps().last(), Some(&5));
    // A new run in the same folder has another journal of its own.
    let journal = disk
        .run_journal
        .replace(r#""schema":1,"#, r#""schema":1, "#);
    let lines: Vec<_> = journal.lines().collect();
    disk.show("events.jsonl", (lines[..2].join("\n") + "\n").as_bytes());
    let (first_verdict, _) = disk.line_with(r#""event":"judged""#);
    disk.show_steps(first_verdict);
    screen.wait_until(|steps| steps.last() == Some(&0));
    watching.child.kill().unwrap();
    watching.child.wait().unwrap();
    drop(watching);
    reading.join().unwrap();
}
