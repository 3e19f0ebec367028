//! The cache of compiled cubins: by the hash of everything that a cubin was made from, the cubin and what is known about it.
//!
//! A damaged or incomplete entry counts as missing. Pruning and leases are those of `device::cache`.

use std::time::{Duration, Instant, SystemTime};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::wire::CompileResponse;
use super::{diagnostics, ptx};
use crate::base::{Digest, Failure};
use crate::device::cache::{self, CacheLease, ImageCache, write_failure};
use crate::device::{Build, CompiledEntry, Program, SourceTrace};
use crate::verdict::Resources;

/// Increase it when the format of `CachedCubin` changes.
pub(super) const FORMAT: u32 = 5;
/// Minimum time between two prunings: many processes compile a single kernel and end.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// The cached cubins of this machine.
pub(super) struct CubinCache {
    files: ImageCache,
}

/// What is stored for a cubin.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CachedCubin {
    /// Hash of the cubin, which is also the name of its file.
    cubin: String,
    entries: Vec<CompiledEntry>,
    log: String,
    resources: Resources,
    trace: SourceTrace,
    facts: IndexMap<String, f64>,
}

/// What is known about a cubin.
pub(super) struct CubinFacts {
    pub(super) entries: Vec<CompiledEntry>,
    pub(super) trace: SourceTrace,
    pub(super) features: IndexMap<String, f64>,
}

impl CubinCache {
    pub(super) fn open() -> Result<Self, Failure> {
        Ok(Self {
            files: ImageCache::open(cache::folder().join("cubins"))?,
        })
    }

    /// The result of an earlier compilation, if it is complete.
    pub(super) fn load(&self, key: &Digest, started: Instant) -> Option<Program> {
        let description = format!("{key}.json");
        self.files.lease(&description)?;
        let text = std::fs::read(self.files.path(&description)).ok()?;
        let cached: CachedCubin = serde_json::from_slice(&text).ok()?;
        let lease = self.files.lease(&cached.image_name())?;
        let image = std::fs::read(self.files.path(&cached.image_name())).ok()?;
        if Digest::of(image).to_string() != cached.cubin {
            return None;
        }
        Some(self.program(cached, lease, started))
    }

    /// Stores a response of NVRTC.
    pub(super) fn save(
        &self,
        key: &Digest,
        response: &CompileResponse,
        facts: CubinFacts,
        started: Instant,
    ) -> anyhow::Result<Program> {
        let cached = CachedCubin {
            cubin: Digest::of(&response.cubin).to_string(),
            entries: facts.entries,
            log: diagnostics::warnings(&response.log),
            resources: ptx::parse_resources(&response.log),
            trace: facts.trace,
            facts: facts.features,
        };
        // A cubin is named by its hash, so processes that write the same name write the same contents.
        let write = |name: &str, contents: &[u8]| {
            let written = self.files.write(name, contents);
            written.map_err(|error| write_failure(&self.files.path(name), &error))
        };
        let lease = write(&cached.image_name(), &response.cubin)?;
        write(&format!("{key}.json"), &serde_json::to_vec(&cached)?)?;
        Ok(self.program(cached, lease, started))
    }

    fn program(&self, cached: CachedCubin, lease: CacheLease, started: Instant) -> Program {
        Program {
            image: self.files.path(&cached.image_name()),
            lease,
            build: Build::Fast,
            schedule: 0,
            resources: cached.resources,
            compile_seconds: started.elapsed().as_secs_f64(),
            log: cached.log,
            entries: cached.entries,
            trace: Box::new(cached.trace),
            features: cached.facts,
        }
    }

    /// The cached version of the NVRTC library with this identity.
    pub(super) fn load_version(&self, library: &Digest) -> Option<(i32, i32)> {
        let text = std::fs::read(self.files.path(&version_name(library))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn save_version(&self, library: &Digest, version: (i32, i32)) -> anyhow::Result<()> {
        let file = self.files.path(&version_name(library));
        cache::write_atomically(&file, &serde_json::to_vec(&version)?)
            .map_err(|error| write_failure(&file, &error))?;
        Ok(())
    }

    /// Prunes the cache, unless another process has done so recently.
    pub(super) fn prune_if_due(&self) {
        let mark = self.files.path("pruned");
        let last = mark.metadata().and_then(|metadata| metadata.modified());
        let age = last
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_none_or(|age| age > PRUNE_EVERY) {
            // If this fails, the next process also prunes, which is harmless.
            let _ = cache::write_atomically(&mark, b"");
            self.files.prune();
        }
    }
}

impl CachedCubin {
    fn image_name(&self) -> String {
        format!("{}.cubin", self.cubin)
    }
}

fn version_name(library: &Digest) -> String {
    format!("{library}.version")
}
