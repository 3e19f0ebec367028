//! Runs every strategy on every scenario with many seeds, on all cores, and collects the records in a fixed order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::scenarios::{Entry, Scenario};
use crate::simulation::record::RunRecord;

/// The searches of one strategy on one scenario, by seed.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) records: Vec<RunRecord>,
}

/// All searches of one scenario, in the order of the entries.
pub(crate) fn run(scenario: &Scenario, entries: &[Entry], seeds: u64) -> Vec<Row> {
    let per_entry = seeds as usize;
    let searches = per_entry * entries.len();
    let records: Vec<Mutex<Option<RunRecord>>> = (0..searches).map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = records.get(index) else {
                return;
            };
            let record = scenario.run(&entries[index / per_entry], (index % per_entry) as u64);
            *slot.lock().unwrap() = Some(record);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let mut records = records
        .into_iter()
        .map(|record| record.into_inner().unwrap().unwrap_or_default());
    entries
        .iter()
        .map(|entry| Row {
            name: entry.name,
            records: records.by_ref().take(per_entry).collect(),
        })
        .collect()
}
