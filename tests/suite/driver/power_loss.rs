//! A loss of power at any moment: every file is old or new, and the run resumes with all that was durable.
//!
//! A run is recorded, change by change. `DiskModel` then answers after each change what the disk may hold if the power fails: names
//! and contents that were not synced are there, partly there, or not there. The run is resumed from such states.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use kforge::base::RandomStream;
use kforge::base::files::{Change, observe_changes};

use super::resume::folder_in_memory;
use super::scripted::{judges, options};
use super::{run, state};

const STEPS: u64 = 10;

/// Number of states that are resumed, of those that differ. All if the environment variable `KFORGE_TEST_ALL` is set.
const RESUMED_STATES: usize = 40;

/// Number of random states after each change, besides the extreme ones.
const RANDOM_STATES: u64 = 4;

/// A change of the recorded run, with a path below the recorded folder.
#[derive(Clone)]
enum RecordedChange {
    CreateFolder(PathBuf),
    CreateFile(PathBuf),
    Append(PathBuf, Vec<u8>),
    Shorten(PathBuf, u64),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFolder(PathBuf),
}

/// The folder that is recorded, and its changes so far.
static RECORDING: Mutex<Option<(PathBuf, Vec<RecordedChange>)>> = Mutex::new(None);

/// A run, every change that it made to its files, and its end.
struct RecordedRun {
    changes: Vec<RecordedChange>,
    /// Its files.
    tree: Tree,
    /// As of `state`.
    end: String,
}

/// Recorded once for all tests.
static RECORDED_RUN: LazyLock<RecordedRun> = LazyLock::new(|| {
    let root = folder_in_memory();
    observe_changes(|change| {
        if let Some((root, changes)) = &mut *RECORDING.lock().unwrap() {
            changes.extend(recorded(change, root));
        }
    });
    *RECORDING.lock().unwrap() = Some((root.path().to_owned(), Vec::new()));
    let directory = root.path().join("run");
    // Two processes, so that the second also opens what the first has left.
    for steps in [STEPS / 2, STEPS] {
        let options = options(&directory, &["softmax"], steps);
        run(options, &judges(Duration::ZERO)).unwrap();
    }
    let (_, changes) = RECORDING.lock().unwrap().take().unwrap();
    let mut tree = read_tree(root.path());
    // Its contents matter only while its process lives.
    tree.remove(Path::new("run/lock"));
    RecordedRun {
        changes,
        tree,
        end: state(&directory, "softmax", STEPS),
    }
});

/// `None` for a change of another test.
fn recorded(change: &Change<'_>, root: &Path) -> Option<RecordedChange> {
    let below = |path: &Path| path.strip_prefix(root).ok().map(Path::to_owned);
    Some(match change {
        Change::CreateFolder(path) => RecordedChange::CreateFolder(below(path)?),
        Change::CreateFile(path) => RecordedChange::CreateFile(below(path)?),
        Change::Append(path, bytes) => RecordedChange::Append(below(path)?, bytes.to_vec()),
        Change::Shorten(path, length) => RecordedChange::Shorten(below(path)?, *length),
        Change::SyncFile(path) => RecordedChange::SyncFile(below(path)?),
        Change::Rename { from, to } => RecordedChange::Rename(below(from)?, below(to)?),
        Change::Remove(path) => RecordedChange::Remove(below(path)?),
        Change::SyncFolder(path) => RecordedChange::SyncFolder(below(path)?),
    })
}

/// A file or folder, apart from its names.
type NodeId = usize;

/// The contents of a file, as programs see them and as of its last sync.
#[derive(Clone, Default)]
struct FileModel {
    current: Vec<u8>,
    durable: Vec<u8>,
}

/// The names in a folder, as programs see them and as of its last sync, and the changes in between.
#[derive(Clone, Default)]
struct FolderModel {
    current: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<NameChange>,
}

#[derive(Clone)]
enum NameChange {
    Add(String, NodeId),
    Remove(String),
    /// The node of the old name gets the new one. Atomic, so both happen or neither.
    Rename(String, String, NodeId),
}

enum Node {
    File(FileModel),
    Folder(FolderModel),
}

/// A tree as it may be found: by path, the contents of a file, or `None` for a folder.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What happens to the changes that were not synced.
#[derive(Clone, Copy)]
enum Fate {
    AllLost,
    AllKept,
    /// The usual fate on file systems that write names before contents.
    NamesKept,
    ContentsKept,
    Random(u64),
}

/// A disk, and what may be lost on it.
struct DiskModel {
    nodes: Vec<Node>,
    /// Every complete content that a file has had under its name.
    versions: BTreeMap<PathBuf, HashSet<Vec<u8>>>,
}

impl DiskModel {
    fn new() -> Self {
        Self {
            nodes: vec![Node::Folder(FolderModel::default())],
            versions: BTreeMap::new(),
        }
    }

    fn apply(&mut self, change: &RecordedChange) {
        match change {
            RecordedChange::CreateFolder(path) => {
                let node = self.add(Node::Folder(FolderModel::default()));
                self.change_name(path, |name| NameChange::Add(name, node));
            }
            RecordedChange::CreateFile(path) => match self.find(path) {
                Some(node) => self.file(node).current.clear(),
                None => {
                    let node = self.add(Node::File(FileModel::default()));
                    self.change_name(path, |name| NameChange::Add(name, node));
                }
            },
            RecordedChange::Append(path, bytes) => {
                let node = self.find(path).unwrap();
                self.file(node).current.extend(bytes);
            }
            RecordedChange::Shorten(path, length) => {
                let node = self.find(path).unwrap();
                self.file(node).current.truncate(*length as usize);
            }
            RecordedChange::SyncFile(path) => {
                let node = self.find(path).unwrap();
                let file = self.file(node);
                file.durable = file.current.clone();
            }
            RecordedChange::Rename(from, to) => {
                let node = self.find(from).unwrap();
                let contents = self.file(node).current.clone();
                self.versions
                    .entry(to.clone())
                    .or_default()
                    .insert(contents);
                let new_name = file_name(to);
                assert_eq!(from.parent(), to.parent(), "renamed within a folder");
                self.change_name(from, |name| NameChange::Rename(name, new_name, node));
            }
            RecordedChange::Remove(path) => self.change_name(path, NameChange::Remove),
            RecordedChange::SyncFolder(path) => {
                let node = self.find(path).unwrap();
                let folder = self.folder(node);
                folder.durable = folder.current.clone();
                folder.pending.clear();
            }
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn change_name(&mut self, path: &Path, change: impl FnOnce(String) -> NameChange) {
        let parent = self.find(path.parent().unwrap()).unwrap();
        let change = change(file_name(path));
        let folder = self.folder(parent);
        change_names(&mut folder.current, &change);
        folder.pending.push(change);
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        path.iter()
            .try_fold(0, |node, name| match &self.nodes[node] {
                Node::Folder(folder) => folder.current.get(name.to_str().unwrap()).copied(),
                Node::File(_) => None,
            })
    }

    fn file(&mut self, node: NodeId) -> &mut FileModel {
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Folder(_) => panic!("a folder was used as a file"),
        }
    }

    fn folder(&mut self, node: NodeId) -> &mut FolderModel {
        match &mut self.nodes[node] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("a file was used as a folder"),
        }
    }

    /// The tree after a loss of power.
    fn tree(&self, fate: Fate) -> Tree {
        let seed = match fate {
            Fate::Random(seed) => seed,
            _ => 0,
        };
        let mut stream = RandomStream::new(seed, "power loss", 0);
        let mut tree = Tree::new();
        self.add_folder(0, Path::new(""), fate, &mut stream, &mut tree);
        tree
    }

    fn add_folder(
        &self,
        node: NodeId,
        path: &Path,
        fate: Fate,
        stream: &mut RandomStream,
        tree: &mut Tree,
    ) {
        let folder = match &self.nodes[node] {
            Node::File(file) => {
                tree.insert(path.to_owned(), Some(contents(file, fate, stream)));
                return;
            }
            Node::Folder(folder) => folder,
        };
        tree.insert(path.to_owned(), None);
        let mut names = folder.durable.clone();
        for change in &folder.pending {
            let is_kept = match fate {
                Fate::AllLost | Fate::ContentsKept => false,
                Fate::AllKept | Fate::NamesKept => true,
                Fate::Random(_) => stream.uniform() < 0.5,
            };
            if is_kept {
                change_names(&mut names, change);
            }
        }
        for (name, node) in names {
            self.add_folder(node, &path.join(name), fate, stream, tree);
        }
    }

    /// A file of the tree that never had these contents under its name. Temporary files and the ends of journals may be torn.
    fn torn_file<'t>(&self, tree: &'t Tree) -> Option<&'t Path> {
        let mut files = tree.iter().filter_map(|(path, contents)| {
            let name = file_name(path);
            let may_be_torn =
                name.starts_with('.') && name.ends_with(".tmp") || name == "events.jsonl";
            let contents = contents.as_ref().filter(|_| !may_be_torn)?;
            Some((path, contents))
        });
        let torn = files.find(|(path, contents)| {
            let versions = self.versions.get(*path);
            !versions.is_some_and(|versions| versions.contains(*contents))
        });
        torn.map(|(path, _)| path.as_path())
    }

    /// The contents of a file as of its last sync, if its name is durable.
    fn durable(&self, path: &Path) -> &[u8] {
        let node = path
            .iter()
            .try_fold(0, |node, name| match &self.nodes[node] {
                Node::Folder(folder) => folder.durable.get(name.to_str().unwrap()).copied(),
                Node::File(_) => None,
            });
        match node.map(|node| &self.nodes[node]) {
            Some(Node::File(file)) => &file.durable,
            _ => &[],
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_str().unwrap().to_owned())
}

fn change_names(names: &mut BTreeMap<String, NodeId>, change: &NameChange) {
    match change {
        NameChange::Add(name, node) => {
            names.insert(name.clone(), *node);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

/// The contents of a file after a loss of power.
fn contents(file: &FileModel, fate: Fate, stream: &mut RandomStream) -> Vec<u8> {
    let (durable, current) = (&file.durable, &file.current);
    match fate {
        Fate::AllLost | Fate::NamesKept => return durable.clone(),
        Fate::AllKept | Fate::ContentsKept => return current.clone(),
        Fate::Random(_) => {}
    }
    if durable == current {
        return current.clone();
    }
    // What was synced is safe, unless the file was cut or written again since.
    let safe = match current.starts_with(durable) {
        true => durable.len(),
        false => 0,
    };
    let mut torn = current.clone();
    let cut = safe + stream.below(torn.len() - safe + 1);
    match stream.below(5) {
        0 => return durable.clone(),
        1 => {}
        2 => torn.truncate(cut),
        // The length reached the disk, the data did not.
        3 => torn[cut..].fill(0),
        // A block in the middle did not reach the disk.
        _ => {
            const BLOCK: usize = 4096;
            let start = (cut / BLOCK * BLOCK).max(safe);
            let end = (cut / BLOCK * BLOCK + BLOCK).min(torn.len());
            torn[start..end].fill(0);
        }
    }
    torn
}

fn write_tree(tree: &Tree, folder: &Path) {
    for (path, contents) in tree {
        let path = folder.join(path);
        match contents {
            None => std::fs::create_dir(path).unwrap(),
            Some(contents) => std::fs::write(path, contents).unwrap(),
        }
    }
}

fn read_tree(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        tree.insert(inner.strip_prefix(folder).unwrap().to_owned(), None);
        for entry in std::fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let contents = std::fs::read(&path).unwrap();
                    tree.insert(
                        path.strip_prefix(folder).unwrap().to_owned(),
                        Some(contents),
                    );
                }
            }
        }
    }
    tree
}

/// A state to resume from.
struct LostState {
    moment: usize,
    tree: Tree,
    /// The lines of the task's journal that must survive.
    durable_journal: Vec<u8>,
}

const JOURNAL: &str = "run/softmax/events.jsonl";

/// What a loss of power may leave after each of these changes, without repetitions.
///
/// # Errors
/// The path of a file that may be torn.
fn lost_states(
    disk: &mut DiskModel,
    changes: &[RecordedChange],
) -> Result<Vec<LostState>, PathBuf> {
    let mut seen = HashSet::new();
    let mut states = Vec::new();
    for (moment, change) in changes.iter().enumerate() {
        disk.apply(change);
        let first_seed = moment as u64 * RANDOM_STATES;
        let random = (first_seed..first_seed + RANDOM_STATES).map(Fate::Random);
        let extreme = [
            Fate::AllLost,
            Fate::AllKept,
            Fate::NamesKept,
            Fate::ContentsKept,
        ];
        for fate in extreme.into_iter().chain(random) {
            let tree = disk.tree(fate);
            let mut hasher = DefaultHasher::new();
            tree.hash(&mut hasher);
            if !seen.insert(hasher.finish()) {
                continue;
            }
            if let Some(torn) = disk.torn_file(&tree) {
                return Err(torn.to_owned());
            }
            states.push(LostState {
                moment,
                tree,
                durable_journal: disk.durable(Path::new(JOURNAL)).to_vec(),
            });
        }
    }
    Ok(states)
}

#[test]
fn power_loss_at_any_moment_leaves_whole_files_and_a_resumable_run() {
    let recorded = &*RECORDED_RUN;
    let mut disk = DiskModel::new();
    let states = lost_states(&mut disk, &recorded.changes).unwrap();
    // Nothing bypasses the observer, or the model would differ from the folder.
    assert!(
        disk.tree(Fate::AllKept) == recorded.tree,
        "a change was not recorded"
    );
    let is_copy = |path: &PathBuf| file_name(path) == "verdict.json";
    let mut durable = recorded.tree.clone();
    durable.retain(|path, _| !is_copy(path));
    let mut found = disk.tree(Fate::AllLost);
    found.retain(|path, contents| {
        let is_temporary = file_name(path).ends_with(".tmp");
        !(is_copy(path) || is_temporary && contents.is_some())
    });
    assert!(found == durable, "the end of a run is durable");

    let every = match std::env::var_os("KFORGE_TEST_ALL") {
        Some(_) => 1,
        None => states.len().div_ceil(RESUMED_STATES),
    };
    let root = folder_in_memory();
    for lost in states.iter().step_by(every) {
        let folder = root.path().join("lost");
        write_tree(&lost.tree, &folder);
        let directory = folder.join("run");
        let moment = lost.moment;
        run(
            options(&directory, &["softmax"], STEPS),
            &judges(Duration::ZERO),
        )
        .unwrap_or_else(|error| panic!("after change {moment}: {error:?}"));
        let end = state(&directory, "softmax", STEPS);
        assert_eq!(end, recorded.end, "after change {moment}");
        let resumed = std::fs::read(folder.join(JOURNAL)).unwrap();
        assert!(
            resumed.starts_with(&lost.durable_journal),
            "lines were lost after change {moment}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn model_finds_files_that_are_renamed_before_they_are_synced() {
    // The same run in the wrong order: each file is renamed first, and synced under its new name.
    let mut wrong: Vec<RecordedChange> = Vec::new();
    for change in &RECORDED_RUN.changes {
        if let RecordedChange::Rename(from, to) = change {
            let is_sync = |other: &RecordedChange| matches!(other, RecordedChange::SyncFile(path) if path == from);
            let sync = wrong.iter().rposition(is_sync).unwrap();
            wrong.remove(sync);
            wrong.push(change.clone());
            wrong.push(RecordedChange::SyncFile(to.clone()));
        } else {
            wrong.push(change.clone());
        }
    }
    assert!(lost_states(&mut DiskModel::new(), &wrong).is_err());
}
