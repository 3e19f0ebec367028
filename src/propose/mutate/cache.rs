//! Remembers the kernels that `mutate` has made from each parent, so that an attempt does not make the earlier ones again.
//!
//! Only saves time: a proposal is the same with a new cache. A parent that was not used for long is forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sequence::ChildSequence;
use crate::base::Digest;
use crate::task::Task;

/// Memory for all parents together, in bytes.
const MAX_BYTES: usize = 64 << 20;

/// What `mutate` knows of the parents that it was used on. Can be shared between threads.
#[derive(Default)]
pub struct MutationCache {
    /// The most recently used one is last.
    parents: Mutex<Vec<CachedParent>>,
}

struct CachedParent {
    key: Digest,
    sequence: Arc<Mutex<ChildSequence>>,
    bytes: usize,
}

impl MutationCache {
    /// Calls `run` with the kernels that were made from a parent so far. Waits while another thread makes one from it.
    pub(super) fn with_sequence<R>(
        &self,
        source: &str,
        task: &Task,
        seed: u64,
        run: impl FnOnce(&mut ChildSequence) -> R,
    ) -> R {
        let key = Digest::of_parts([task.name.as_bytes(), &seed.to_le_bytes(), source.as_bytes()]);
        let shared = self.find_or_add(key, source, seed);
        let mut sequence = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let result = run(&mut sequence);
        self.note_use(key, sequence.bytes());
        result
    }

    fn parents(&self) -> MutexGuard<'_, Vec<CachedParent>> {
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_or_add(&self, key: Digest, source: &str, seed: u64) -> Arc<Mutex<ChildSequence>> {
        let mut parents = self.parents();
        if let Some(known) = parents.iter().find(|parent| parent.key == key) {
            return known.sequence.clone();
        }
        let sequence = Arc::new(Mutex::new(ChildSequence::new(source, seed)));
        parents.push(CachedParent {
            key,
            sequence: sequence.clone(),
            bytes: 0,
        });
        sequence
    }

    /// Moves a parent to the end, and forgets those at the front that no longer fit.
    fn note_use(&self, key: Digest, bytes: usize) {
        let mut parents = self.parents();
        let Some(index) = parents.iter().position(|parent| parent.key == key) else {
            return;
        };
        let mut used = parents.remove(index);
        used.bytes = bytes;
        parents.push(used);
        let mut total: usize = parents.iter().map(|parent| parent.bytes).sum();
        let mut forgotten = 0;
        while total > MAX_BYTES && forgotten + 1 < parents.len() {
            total -= parents[forgotten].bytes;
            forgotten += 1;
        }
        parents.drain(..forgotten);
    }
}
