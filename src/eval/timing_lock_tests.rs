//! Tests of the timing lock: who gets it, in which order, and after a holder was killed.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;

use super::*;

#[test]
fn shared_locks_coexist_and_exclusive_excludes_all() {
    let folder = tempfile::tempdir().unwrap();
    let timing_lock = TimingLock::open(LockFile {
        path: folder.path().join("lock"),
        is_host: true,
    })
    .unwrap();
    let first = timing_lock.shared().unwrap();
    let second = timing_lock.shared().unwrap();
    let file = timing_lock.open_file("").unwrap();
    assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    drop((first, second));
    timing_lock.take_held_time();
    let exclusive = timing_lock.exclusive().unwrap();
    assert!(matches!(
        file.try_lock_shared(),
        Err(TryLockError::WouldBlock)
    ));
    sleep(Duration::from_millis(5));
    drop(exclusive);
    assert!(timing_lock.take_held_time() >= Duration::from_millis(5));
    assert_eq!(timing_lock.take_held_time(), Duration::ZERO);
    assert!(file.try_lock().is_ok());
}

#[test]
fn symlinked_lock_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    std::fs::write(&target, "").unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
    let path = folder.path().join("lock");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    let opened = TimingLock::open(LockFile {
        path,
        is_host: false,
    });
    assert!(opened.is_err());
    let mode = std::fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn open_lock(folder: &tempfile::TempDir, is_host: bool) -> TimingLock {
    let path = folder.path().join("lock");
    TimingLock::open(LockFile { path, is_host }).unwrap()
}

/// Opens a lock whose shared side waits for this long before it is overdue. Any number may share it.
fn open_with_patience(folder: &tempfile::TempDir, patience: Duration) -> TimingLock {
    TimingLock {
        patience,
        ..open_lock(folder, true)
    }
}

/// Waits until something holds the lock of a file, alone or shared.
fn wait_until_held(lock: &TimingLock, suffix: &str) {
    let file = lock.open_file(suffix).unwrap();
    let started = Instant::now();
    while ensure_free(&file).is_ok() {
        assert!(started.elapsed() < MAX_WAIT, "nothing holds `{suffix}`");
        sleep(Duration::from_millis(1));
    }
}

/// Limit for the turns that others take while the lock is waited for. Without the gate they would take all of them.
const MAX_TURNS: usize = 2000;

#[test]
fn exclusive_lock_is_not_starved() {
    let folder = tempfile::tempdir().unwrap();
    let crowd = open_lock(&folder, true);
    let turns = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Each thread locks again at once, so that at every moment one of them holds the lock.
        for _ in 0..3 {
            scope.spawn(|| {
                while turns.load(Ordering::SeqCst) < MAX_TURNS {
                    let guard = crowd.shared().unwrap();
                    turns.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(5));
                    drop(guard);
                }
            });
        }
        while turns.load(Ordering::SeqCst) < 3 {
            sleep(Duration::from_millis(1));
        }
        let guard = open_lock(&folder, true).exclusive().unwrap();
        let passed = turns.swap(MAX_TURNS, Ordering::SeqCst);
        drop(guard);
        assert!(passed < MAX_TURNS, "the crowd took {passed} turns");
    });
}

#[test]
fn shared_lock_is_not_starved() {
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_millis(50);
    let crowd = open_with_patience(&folder, patience);
    let turns = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Each thread times again at once, so at every moment one holds the lock and another one is at the gate.
        for _ in 0..3 {
            scope.spawn(|| {
                while turns.load(Ordering::SeqCst) < MAX_TURNS {
                    let guard = crowd.exclusive().unwrap();
                    turns.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(5));
                    drop(guard);
                }
            });
        }
        while turns.load(Ordering::SeqCst) < 3 {
            sleep(Duration::from_millis(1));
        }
        let guard = open_with_patience(&folder, patience).shared().unwrap();
        let passed = turns.swap(MAX_TURNS, Ordering::SeqCst);
        drop(guard);
        assert!(passed < MAX_TURNS, "the crowd took {passed} turns");
    });
}

/// Starts a timing that waits for the lock, after something that waits to share it, while the lock is held. Returns who got it first.
fn first_of_two(patience: Duration) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    let lock = open_with_patience(&folder, patience);
    let order = Mutex::new(Vec::new());
    let held = lock.exclusive().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = lock.shared().unwrap();
            order.lock().unwrap().push("shared");
        });
        if patience.is_zero() {
            wait_until_held(&lock, OVERDUE);
        } else {
            sleep(Duration::from_millis(20));
        }
        scope.spawn(|| {
            let _guard = lock.exclusive().unwrap();
            order.lock().unwrap().push("timing");
        });
        if !patience.is_zero() {
            wait_until_held(&lock, GATE);
        }
        drop(held);
    });
    order.into_inner().unwrap()[0]
}

#[test]
fn a_timing_follows_a_timing_until_a_check_is_overdue() {
    assert_eq!(first_of_two(MAX_WAIT), "timing");
    assert_eq!(first_of_two(Duration::ZERO), "shared");
}

#[test]
fn all_that_are_overdue_begin_before_the_next_timing() {
    const CROWD: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let lock = open_with_patience(&folder, Duration::ZERO);
    let inside = AtomicUsize::new(0);
    let held = lock.exclusive().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| {
                let _guard = lock.shared().unwrap();
                inside.fetch_add(1, Ordering::SeqCst);
                // All are inside at the same moment.
                let started = Instant::now();
                while inside.load(Ordering::SeqCst) < CROWD {
                    assert!(started.elapsed() < MAX_WAIT, "one of them is not inside");
                    sleep(Duration::from_millis(1));
                }
            });
        }
        wait_until_held(&lock, OVERDUE);
        // Long enough for the others to be overdue too. If they are not, they begin all the same.
        sleep(Duration::from_millis(20));
        drop(held);
    });
}

#[test]
fn a_timing_that_waits_goes_between_two_pieces_of_work() {
    let folder = tempfile::tempdir().unwrap();
    let lock = open_with_patience(&folder, MAX_WAIT);
    let mut freed = 0;
    let mut pieces = lock.shared_pieces();
    pieces.begin(|| freed += 1).unwrap();
    let other = lock.shared().unwrap();
    pieces.begin(|| freed += 1).unwrap();
    drop(other);
    assert_eq!(freed, 0, "no timing waits");
    let timed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = lock.exclusive().unwrap();
            timed.fetch_add(1, Ordering::SeqCst);
        });
        wait_until_held(&lock, GATE);
        assert_eq!(timed.load(Ordering::SeqCst), 0, "a piece is not complete");
        pieces.begin(|| freed += 1).unwrap();
        assert_eq!((freed, timed.load(Ordering::SeqCst)), (1, 1));
    });
    // What has waited long enough lets no more timings go first.
    pieces.waited = YIELD_LIMIT;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = lock.exclusive().unwrap();
            timed.fetch_add(1, Ordering::SeqCst);
        });
        wait_until_held(&lock, GATE);
        pieces.begin(|| freed += 1).unwrap();
        assert_eq!((freed, timed.load(Ordering::SeqCst)), (1, 1));
        pieces.guard = None;
    });
    pieces.begin(|| freed += 1).unwrap();
    assert_eq!(freed, 1, "nothing is open before the first piece");
    let file = lock.open_file("").unwrap();
    assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    drop(pieces);
    assert!(file.try_lock().is_ok());
}

#[test]
fn a_long_timing_lets_others_go_first_between_its_blocks() {
    const LIMIT: Duration = Duration::from_secs(60);
    let folder = tempfile::tempdir().unwrap();
    let lock = TimingLock {
        timing_slice: Duration::from_millis(20),
        ..open_with_patience(&folder, Duration::from_millis(10))
    };
    let mut held = lock.exclusive().unwrap();
    sleep(lock.timing_slice);
    assert!(!lock.must_give_way(&held).unwrap(), "nobody waits");
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for is_timing in [true, false, true, false] {
            let (lock, done) = (&lock, &done);
            scope.spawn(move || {
                let guard = if is_timing {
                    lock.exclusive().unwrap()
                } else {
                    lock.shared().unwrap()
                };
                drop(guard);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let started = Instant::now();
        while done.load(Ordering::SeqCst) < 4 && started.elapsed() < LIMIT {
            // A timing block.
            sleep(Duration::from_millis(5));
            if lock.must_give_way(&held).unwrap() {
                drop(held);
                held = lock.exclusive().unwrap();
            }
        }
        let turns = done.load(Ordering::SeqCst);
        drop(held);
        assert_eq!(turns, 4, "the long timing kept the lock");
    });
}

#[test]
fn a_timing_keeps_the_lock_for_its_slice() {
    let folder = tempfile::tempdir().unwrap();
    let lock = open_lock(&folder, false);
    let held = lock.exclusive().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(lock.exclusive().unwrap()));
        wait_until_held(&lock, GATE);
        assert!(!lock.must_give_way(&held).unwrap());
        drop(held);
    });
}

#[test]
fn one_process_at_a_time_shares_the_lock_of_a_gpu() {
    const CROWD: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let lock = TimingLock {
        patience: Duration::ZERO,
        ..open_lock(&folder, false)
    };
    let (inside, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| {
                for _ in 0..4 {
                    let guard = lock.shared().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    sleep(Duration::from_millis(3));
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        // Timings go between them.
        while done.load(Ordering::SeqCst) < CROWD {
            let guard = lock.exclusive().unwrap();
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            drop(guard);
            sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn gpu_is_opened_while_another_process_checks_but_not_while_one_times() {
    let folder = tempfile::tempdir().unwrap();
    let lock = open_lock(&folder, false);
    let check = lock.shared().unwrap();
    let openings = [(); 2].map(|()| lock.shared_for_opening().unwrap());
    let file = lock.open_file("").unwrap();
    drop(check);
    assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    drop(openings);
    assert!(file.try_lock().is_ok());
}

#[test]
fn pieces_keep_the_lock_of_a_gpu_for_a_while_and_then_let_a_timing_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let lock = open_lock(&folder, false);
    assert_eq!(lock.slice, GPU_SLICE);
    let lock = TimingLock {
        slice: MAX_WAIT,
        ..lock
    };
    let timed = AtomicUsize::new(0);
    let mut freed = 0;
    std::thread::scope(|scope| {
        let mut pieces = lock.shared_pieces();
        pieces.begin(|| freed += 1).unwrap();
        scope.spawn(|| {
            let _guard = lock.exclusive().unwrap();
            timed.fetch_add(1, Ordering::SeqCst);
        });
        wait_until_held(&lock, GATE);
        pieces.begin(|| freed += 1).unwrap();
        assert_eq!((freed, timed.load(Ordering::SeqCst)), (0, 0));
    });
    assert_eq!(timed.load(Ordering::SeqCst), 1);
    assert_eq!(open_lock(&folder, true).slice, Duration::ZERO);
}

/// Names the lock file for `other_process`.
const LOCK_VARIABLE: &str = "KFORGE_TEST_TIMING_LOCK";
/// How `other_process` locks it.
const MODE_VARIABLE: &str = "KFORGE_TEST_TIMING_MODE";

/// Part of the tests below: takes the lock in a process of its own, says so, and keeps it until it is killed.
#[test]
#[ignore = "part of other tests"]
fn other_process() {
    let path = PathBuf::from(std::env::var_os(LOCK_VARIABLE).unwrap());
    let lock = TimingLock {
        patience: Duration::ZERO,
        ..TimingLock::open(LockFile {
            path,
            is_host: false,
        })
        .unwrap()
    };
    let _guard = match std::env::var(MODE_VARIABLE).unwrap().as_str() {
        "shared" => lock.shared().unwrap(),
        _ => lock.exclusive().unwrap(),
    };
    std::fs::write(lock.lock_file.path.with_extension("held"), "").unwrap();
    sleep(MAX_WAIT);
}

/// Another process that takes the lock. It is killed when this is dropped.
struct OtherProcess(Child);

impl OtherProcess {
    fn start(lock: &TimingLock, mode: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact"])
            .arg("eval::timing_lock::tests::other_process")
            .env(LOCK_VARIABLE, &lock.lock_file.path)
            .env(MODE_VARIABLE, mode)
            .stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn wait_until_it_holds(lock: &TimingLock) {
        let started = Instant::now();
        while !lock.lock_file.path.with_extension("held").exists() {
            assert!(started.elapsed() < MAX_WAIT, "it does not get the lock");
            sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_holder_leaves_nothing_locked() {
    for mode in ["shared", "exclusive"] {
        let folder = tempfile::tempdir().unwrap();
        let lock = open_lock(&folder, false);
        let holder = OtherProcess::start(&lock, mode);
        OtherProcess::wait_until_it_holds(&lock);
        assert!(ensure_free(&lock.open_file("").unwrap()).is_err());
        // One waits at the gate, and one to share the lock.
        let waiter = match mode {
            "shared" => OtherProcess::start(&lock, "exclusive"),
            _ => OtherProcess::start(&lock, "shared"),
        };
        let place = if mode == "shared" { GATE } else { OVERDUE };
        wait_until_held(&lock, place);
        drop(waiter);
        assert!(ensure_free(&lock.open_file(place).unwrap()).is_ok());
        drop(holder);
        drop(lock.shared().unwrap());
        drop(lock.exclusive().unwrap());
    }
}

#[test]
fn two_processes_exclude_each_other_and_both_get_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let lock = open_with_patience(&folder, Duration::ZERO);
    for (own, other) in [
        ("exclusive", "exclusive"),
        ("exclusive", "shared"),
        ("shared", "exclusive"),
    ] {
        let held = match own {
            "shared" => lock.shared().unwrap(),
            _ => lock.exclusive().unwrap(),
        };
        let process = OtherProcess::start(&lock, other);
        let place = if other == "shared" { OVERDUE } else { GATE };
        wait_until_held(&lock, place);
        let note = lock.lock_file.path.with_extension("held");
        assert!(!note.exists(), "{own}, {other}");
        drop(held);
        OtherProcess::wait_until_it_holds(&lock);
        drop(process);
        std::fs::remove_file(note).unwrap();
    }
}

#[test]
fn waiter_precedes_a_repeated_locker() {
    let folder = tempfile::tempdir().unwrap();
    let (greedy, patient) = (open_lock(&folder, false), open_lock(&folder, false));
    let turns = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while turns.load(Ordering::SeqCst) < MAX_TURNS {
                let guard = greedy.exclusive().unwrap();
                turns.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(5));
                drop(guard);
            }
        });
        while turns.load(Ordering::SeqCst) < 2 {
            sleep(Duration::from_millis(1));
        }
        let guard = patient.exclusive().unwrap();
        let passed = turns.swap(MAX_TURNS, Ordering::SeqCst);
        drop(guard);
        assert!(passed < MAX_TURNS, "the other took {passed} turns");
    });
}

#[test]
fn host_work_waits_only_when_the_device_is_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = open_lock(&folder, false);
    let exclusive = gpu.exclusive().unwrap();
    drop(gpu.host_work().unwrap());
    let host = open_lock(&folder, true);
    let file = host.open_file("").unwrap();
    assert!(matches!(
        file.try_lock_shared(),
        Err(TryLockError::WouldBlock)
    ));
    drop(exclusive);
    let host_work = host.host_work().unwrap();
    assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    drop(host_work);
}
