//! Runs a function on several items at once.
//!
//! The results have the order of the items. Starts no thread for few items: one item takes about a millisecond.

use std::sync::{Mutex, PoisonError};

/// Fewer items than this are done on the calling thread.
const MIN_ITEMS: usize = 4;

/// Most threads to start: the judge needs cores too.
const MAX_THREADS: usize = 8;

pub(super) fn in_parallel<T: Send, R: Send>(items: Vec<T>, run: impl Fn(T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(MAX_THREADS).min(items.len() / 2);
    if items.len() < MIN_ITEMS || threads < 2 {
        return items.into_iter().map(run).collect();
    }
    let waiting = Mutex::new(items.into_iter().enumerate());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next()
    };
    let work = || -> Vec<(usize, R)> {
        std::iter::from_fn(&next)
            .map(|(index, item)| (index, run(item)))
            .collect()
    };
    let mut done: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(results) => done.extend(results),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_order_of_the_items() {
        for count in [0, 1, 5, 1000] {
            let expected: Vec<_> = (0..count).map(|item| item * 2).collect();
            let items: Vec<_> = (0..count).collect();
            assert_eq!(in_parallel(items, |item| item * 2), expected);
        }
    }
}
