//! CPU time: what a limit counts that a busy machine must not use up, and what a test measures. Stops nothing.

use std::time::Duration;

/// The CPU time that the processes of a group have used so far, with the children that they have waited for. `None` if the system does not
/// say, or the group has no process.
pub(crate) fn group_cpu_time(group: libc::pid_t) -> Option<Duration> {
    // SAFETY: takes and returns numbers.
    let ticks_per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let ticks = processes
        .filter_map(|entry| {
            let id: libc::pid_t = entry.file_name().to_str()?.parse().ok()?;
            let (found, ticks) = group_and_ticks(id)?;
            (found == group).then_some(ticks)
        })
        .reduce(|sum, ticks| sum + ticks)?;
    Some(Duration::from_millis(
        ticks * 1000 / ticks_per_second.max(1),
    ))
}

/// The group of a process and its CPU time in clock ticks, from `/proc/ID/stat`.
fn group_and_ticks(id: libc::pid_t) -> Option<(libc::pid_t, u64)> {
    let text = std::fs::read(format!("/proc/{id}/stat")).ok()?;
    // The second field is the name in parentheses, which may contain anything.
    let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
    let text = String::from_utf8_lossy(&text[end_of_name + 1..]);
    let fields: Vec<_> = text.split_ascii_whitespace().collect();
    // In user mode, in the kernel, and the same of its children.
    let ticks = fields.get(11..15)?.iter();
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((fields.get(2)?.parse().ok()?, ticks))
}

/// The CPU time that this thread has used so far.
#[cfg(test)]
pub(crate) fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes only to the structure.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
