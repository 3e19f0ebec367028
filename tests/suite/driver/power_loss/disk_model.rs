//! A model of a disk: which files and contents it may hold after a loss of power, given the changes and syncs before it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use kforge::base::RandomStream;
use kforge::base::files::Change;

/// A change of the recorded run, with a path below the recorded folder.
#[derive(Clone)]
pub(super) enum RecordedChange {
    CreateFolder(PathBuf),
    CreateFile(PathBuf),
    Append(PathBuf, Vec<u8>),
    Shorten(PathBuf, u64),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFolder(PathBuf),
}

/// `None` for a change of another test.
pub(super) fn recorded(change: &Change<'_>, root: &Path) -> Option<RecordedChange> {
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
pub(super) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What happens to the changes that were not synced.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    AllLost,
    AllKept,
    /// The usual fate on file systems that write names before contents.
    NamesKept,
    ContentsKept,
    Random(u64),
}

/// A disk, and what may be lost on it.
pub(super) struct DiskModel {
    nodes: Vec<Node>,
    /// Every complete content that a file has had under its name.
    versions: BTreeMap<PathBuf, HashSet<Vec<u8>>>,
}

impl DiskModel {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::Folder(FolderModel::default())],
            versions: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, change: &RecordedChange) {
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
    pub(super) fn tree(&self, fate: Fate) -> Tree {
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
    pub(super) fn torn_file<'t>(&self, tree: &'t Tree) -> Option<&'t Path> {
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
    pub(super) fn durable(&self, path: &Path) -> &[u8] {
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

pub(super) fn file_name(path: &Path) -> String {
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

pub(super) fn write_tree(tree: &Tree, folder: &Path) {
    for (path, contents) in tree {
        let path = folder.join(path);
        match contents {
            None => std::fs::create_dir(path).unwrap(),
            Some(contents) => std::fs::write(path, contents).unwrap(),
        }
    }
}

pub(super) fn read_tree(folder: &Path) -> Tree {
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
