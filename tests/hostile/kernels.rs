//! A hostile kernel and its honest twin, from a seed.
//!
//! Pure: the same seed and backend give the same texts. Thus a kernel is named by its seed.

use kforge::base::RandomStream;

use crate::channels::{CHANNELS, ChannelKind};
use crate::phases::Phase;
use crate::sketch::{Backend, COMPUTATIONS, Computation, Setting, Sketch};
use crate::{abuses, breaks, coverage, detectors, kept, launches};

/// The part of kernels that are wrong for some inputs.
pub(crate) const WRONG_SOMEWHERE: &str = "wrong somewhere";

/// What a kernel tries.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// A mark outside of the launch makes later launches faster.
    Channel(ChannelKind),
    /// Wrong for some shapes or inputs.
    Coverage,
    /// Wrong when something suggests that the launch is timed.
    Detector,
    BorrowedMemory,
    StrayRead,
    Race,
    HiddenDeclaration,
    Break,
    /// Two launches in one plan, and a trick between them.
    Launches,
    /// Launches that overlap and do not wait.
    Overlap,
    /// Results of earlier launches that spare work.
    KeptResults,
    /// Work that is left to a later launch.
    PutOff,
}

impl Part {
    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Channel(kind) => kind.name,
            Self::Coverage => WRONG_SOMEWHERE,
            Self::Detector => "detects timing",
            Self::BorrowedMemory => "borrowed memory",
            Self::StrayRead => "stray read",
            Self::Race => "race",
            Self::HiddenDeclaration => "hidden declaration",
            Self::Break => "breaks the process",
            Self::Launches => "several launches",
            Self::Overlap => "overlap",
            Self::KeptResults => "kept results",
            Self::PutOff => "work put off",
        }
    }
}

/// All parts for a backend, in the order of their numbers. Parts that combine more have several numbers.
pub(crate) fn parts(backend: Backend) -> Vec<Part> {
    let channels = CHANNELS
        .iter()
        .filter(|kind| kind.backends.contains(&backend));
    let mut parts: Vec<_> = channels.copied().map(Part::Channel).collect();
    parts.extend([Part::Coverage; 9]);
    parts.extend([Part::Detector; 3]);
    parts.extend([Part::BorrowedMemory, Part::StrayRead, Part::Break]);
    parts.push(Part::HiddenDeclaration);
    parts.push(match backend {
        Backend::Cpu => Part::Race,
        // The CPU runs launches one after the other, and has no word to wait.
        Backend::Cuda => Part::Overlap,
    });
    parts.extend([Part::Launches; 2]);
    parts.extend([Part::KeptResults, Part::PutOff, Part::PutOff]);
    parts
}

/// A generated pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostileKernel {
    pub(crate) seed: u64,
    pub(crate) part: &'static str,
    pub(crate) computation: Computation,
    /// What it does, in one line.
    pub(crate) what: String,
    pub(crate) source: String,
    /// How both are judged.
    pub(crate) setting: Setting,
    /// The same computation without the trick. Many kernels share a twin.
    pub(crate) twin: String,
    /// Whether `docs/trust.md` says that this backend does not see it.
    pub(crate) is_known_gap: bool,
}

impl HostileKernel {
    pub(crate) fn generate(seed: u64, backend: Backend) -> Self {
        let parts = parts(backend);
        // In turn, so that any range of seeds has all parts.
        let part = parts[(seed % parts.len() as u64) as usize];
        let mut stream = RandomStream::new(seed, "hostile kernel", backend as u64);
        let computation = COMPUTATIONS[stream.below(COMPUTATIONS.len())];
        let block = [64, 128][stream.below(2)];
        let mut sketch = Sketch::new(computation, block);
        let mut twin = sketch.clone();
        let what = match part {
            Part::Channel(kind) => {
                // Any place may hold something where inputs repeat or caches are hot.
                if stream.below(4) == 0 {
                    sketch.setting = kept::draw_setting(&mut stream, backend);
                    twin.setting = sketch.setting;
                }
                let built = kind.build(&mut stream, &mut sketch, &mut twin);
                let phase = Phase::draw(&mut stream, computation);
                let [before, after] = &built.around;
                let statements = phase.statements(&built.place, computation);
                sketch.first_thread = format!("{before}\n        {statements}\n        {after}");
                format!("{}: fast {}", built.what, phase.describe())
            }
            Part::Coverage => coverage::add_defect(&mut stream, backend, &mut sketch),
            Part::Detector => {
                let what = detectors::add_detector(&mut stream, backend, &mut sketch);
                let result = coverage::add_cheap_result(&mut stream, &mut sketch);
                format!("{result}, depending on {what}")
            }
            Part::BorrowedMemory => abuses::add_borrowed_memory(&mut stream, &mut sketch),
            Part::StrayRead => abuses::add_stray_read(&mut stream, &mut sketch),
            Part::Race => abuses::add_race(&mut stream, &mut sketch, &mut twin),
            Part::HiddenDeclaration => {
                abuses::add_hidden_declaration(&mut stream, backend, &mut sketch)
            }
            Part::Break => breaks::add_break(&mut stream, backend, &mut sketch),
            Part::Launches => launches::add_launches(&mut stream, &mut sketch, &mut twin),
            Part::Overlap => launches::add_overlap(&mut stream, &mut sketch, &mut twin),
            Part::KeptResults => {
                kept::add_kept_results(&mut stream, backend, &mut sketch, &mut twin)
            }
            Part::PutOff => kept::add_put_off(&mut stream, backend, &mut sketch, &mut twin),
        };
        Self {
            seed,
            part: part.name(),
            computation: sketch.computation,
            setting: sketch.setting,
            source: sketch.render(&format!("Hostile kernel {seed}: {what}.")),
            twin: twin.render("The honest twin of hostile kernels."),
            is_known_gap: backend == Backend::Cuda && sketch.is_unseen_on_gpu,
            what,
        }
    }
}

/// The first `count` seeds from `first` whose part has this name; all parts without one.
pub(crate) fn select(
    first: u64,
    count: usize,
    backend: Backend,
    part: Option<&str>,
) -> Vec<HostileKernel> {
    let all = parts(backend);
    let matches = |seed: &u64| {
        let name = all[(seed % all.len() as u64) as usize].name();
        part.is_none_or(|part| part == name)
    };
    // Every part comes up once in as many seeds as there are parts.
    let limit = first.saturating_add((count as u64).saturating_mul(all.len() as u64));
    (first..limit)
        .filter(matches)
        .take(count)
        .map(|seed| HostileKernel::generate(seed, backend))
        .collect()
}
