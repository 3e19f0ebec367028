//! The prompt templates: those embedded in the program, and a user's folder that overrides them file by file.
//!
//! Compiles each template once. Example kernels are kept as they are. Whether a user's templates render is checked in
//! `template_check`.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};

use super::input::Language;
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, yaml};
use crate::kernel::syntax::{Syntax, descendants};
use crate::task::Task;

static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/prompts");

/// A user's folder may add files to this one.
const CARDS_FOLDER: &str = "cards/";
/// Documentation, not a template.
const README: &str = "README.md";
/// The largest file of a user's folder, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// All templates, ready to be rendered.
pub struct Templates {
    environment: Environment<'static>,
    cards: Vec<Card>,
    examples: Vec<ExampleKernel>,
    version: String,
}

/// A strategy that a step may try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// The file's name without its extension.
    pub name: String,
    pub stage: CardStage,
    /// When the card applies, in one line.
    pub when: String,
    /// The backends on which the card is offered.
    pub backends: Vec<CardBackend>,
    /// What a task must have for the card to be offered. Usually nothing.
    pub needs: Vec<CardNeed>,
}

/// What a strategy may need of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardNeed {
    /// Elements of the output that depend on several elements of the input.
    Loops,
    /// Inputs of 16 bits or less that are no integers.
    ShortFloats,
}

impl CardNeed {
    /// Whether a task has it. An oracle whose code has no loop works element by element; what an oracle in Python does is not known.
    fn is_met(self, task: &Task) -> bool {
        match self {
            CardNeed::Loops => task.has_python_oracle() || has_loops(&Syntax::parse(&task.oracle)),
            CardNeed::ShortFloats => {
                let mut inputs = task.definition.inputs.values();
                inputs.any(|input| input.dtype.is_float() && input.dtype.bytes() <= 2)
            }
        }
    }
}

fn has_loops(syntax: &Syntax<'_>) -> bool {
    let kinds = ["for_statement", "while_statement", "do_statement"];
    descendants(syntax.root()).any(|node| kinds.contains(&node.kind()))
}

/// The stage of optimisation that a strategy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardStage {
    Algorithm,
    Locality,
    Memory,
    Launch,
    Instructions,
    Combination,
}

/// A backend, as a card's header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardBackend {
    Cpu,
    Cuda,
    Metal,
}

impl CardBackend {
    fn name(self) -> &'static str {
        match self {
            CardBackend::Cpu => "cpu",
            CardBackend::Cuda => "cuda",
            CardBackend::Metal => "metal",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CardHeader {
    stage: CardStage,
    when: String,
    backends: Vec<CardBackend>,
    #[serde(default)]
    needs: Vec<CardNeed>,
}

/// A kernel that shows how a kernel file is written.
#[derive(Clone, Debug)]
pub struct ExampleKernel {
    /// For example `cuda/row_norms.cu`.
    pub name: String,
    pub language: Language,
    pub source: String,
}

impl Templates {
    /// The templates embedded in the program.
    ///
    /// # Errors
    /// None for the templates of this repository: its tests compile and render them.
    pub fn embedded() -> Result<Self, Failure> {
        Self::compile(embedded_files(), "prompts")
    }

    /// The embedded templates, overridden by a folder's, without rendering them.
    pub(super) fn with_unchecked_folder(folder: &Path) -> Result<Self, Failure> {
        let mut files = embedded_files();
        let origin = folder.display().to_string();
        let mut files_found = Vec::new();
        collect_files(folder, "", &mut files_found).map_err(|(path, error)| {
            Failure::usage(format!("`{path}`: {error}")).hint(
                "`llm.prompts` names a folder of templates with the layout of kforge's own `prompts/`",
            )
        })?;
        for (name, text) in files_found {
            let may_be_new = name.starts_with(CARDS_FOLDER) || example_language(&name).is_some();
            if !may_be_new && !files.contains_key(&name) {
                let known = files.keys().map(String::as_str);
                return Err(Failure::usage(format!(
                    "`{origin}/{name}`: there is no template of this name"
                ))
                .hint(did_you_mean(&name, known)));
            }
            files.insert(name, text);
        }
        Self::compile(files, &origin)
    }

    fn compile(files: BTreeMap<String, String>, origin: &str) -> Result<Self, Failure> {
        let mut templates = Self {
            environment: new_environment(),
            cards: Vec::new(),
            examples: Vec::new(),
            version: version_of(&files),
        };
        for (name, text) in files {
            if let Some(language) = example_language(&name) {
                templates.examples.push(ExampleKernel {
                    name,
                    language,
                    source: text,
                });
                continue;
            }
            let mut template = text;
            if let Some(card) = name.strip_prefix(CARDS_FOLDER) {
                let (header, body) = split_card(&template, &format!("{origin}/{name}"))?;
                templates.cards.push(Card {
                    name: card.trim_end_matches(".md").to_owned(),
                    stage: header.stage,
                    when: header.when,
                    backends: header.backends,
                    needs: header.needs,
                });
                template = body;
            }
            (templates.environment)
                .add_template_owned(name.clone(), template)
                .map_err(|error| template_error(origin, &name, &error))?;
        }
        (templates.cards).sort_by(|a, b| (a.stage, &a.name).cmp(&(b.stage, &b.name)));
        Ok(templates)
    }

    /// Twelve hexadecimal digits of the hash of all files.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The strategy cards for a backend (`cpu`, `cuda` or `metal`), by stage and name.
    pub(crate) fn cards(&self, backend: &str) -> impl Iterator<Item = &Card> {
        let applies = move |card: &&Card| card.backends.iter().any(|known| known.name() == backend);
        self.cards.iter().filter(applies)
    }

    /// Those of them that a task has a use for.
    pub(crate) fn cards_for(&self, backend: &str, task: &Task) -> impl Iterator<Item = &Card> {
        let applies = |card: &&Card| card.needs.iter().all(|need| need.is_met(task));
        self.cards(backend).filter(applies)
    }

    /// The example kernels of a language, by name.
    pub(crate) fn examples(&self, language: Language) -> impl Iterator<Item = &ExampleKernel> {
        (self.examples.iter()).filter(move |example| example.language == language)
    }

    /// Renders a template.
    pub(super) fn render(&self, name: &str, values: Value) -> Result<String, Failure> {
        (self.environment.get_template(name))
            .and_then(|template| template.render(values))
            .map_err(|error| template_error("prompts", name, &error))
    }

    /// Renders a strategy card, of any backend: a resumed run may name a card that is no longer offered.
    pub(super) fn render_card(&self, name: &str, values: Value) -> Result<String, Failure> {
        if !self.cards.iter().any(|card| card.name == name) {
            let known = self.cards.iter().map(|card| card.name.as_str());
            let nearest = did_you_mean(name, known);
            return Err(
                Failure::usage(format!("unknown strategy card `{name}`")).hint(format!(
                    "{nearest}; `kforge prompt TASK --card list` prints all"
                )),
            );
        }
        self.render(&format!("{CARDS_FOLDER}{name}.md"), values)
    }
}

/// An environment in which an unknown variable is an error and a block's own line leaves no white space.
fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    syntax.keep_trailing_newline(true);
    // Only custom delimiters can be invalid; these are the default ones.
    environment.set_syntax(syntax.build().unwrap_or_default());
    environment
}

fn version_of(files: &BTreeMap<String, String>) -> String {
    let parts = (files.iter()).flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
    let mut version = Digest::of_parts(parts).to_string();
    version.truncate(12);
    version
}

/// `cuda/NAME.cu` and `metal/NAME.metal` are example kernels.
fn example_language(name: &str) -> Option<Language> {
    if name.starts_with("cuda/") && name.ends_with(".cu") {
        Some(Language::Cuda)
    } else if name.starts_with("metal/") && name.ends_with(".metal") {
        Some(Language::Metal)
    } else {
        None
    }
}

/// The YAML between a card's two `---` lines, and the text after them.
fn split_card(text: &str, file: &str) -> Result<(CardHeader, String), Failure> {
    let parts = text
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n"));
    let Some((header, body)) = parts else {
        return Err(Failure::usage(format!(
            "`{file}`: expected a header between two `---` lines"
        ))
        .hint("the header has `stage`, `when` and `backends`: see `prompts/README.md`"));
    };
    Ok((
        yaml::read_with_line(header, file, 1)?,
        body.trim_start_matches('\n').to_owned(),
    ))
}

fn template_error(origin: &str, name: &str, error: &minijinja::Error) -> Failure {
    let line = (error.line()).map_or(String::new(), |line| format!(":{line}"));
    let file = error.name().unwrap_or(name);
    let detail = error
        .detail()
        .map_or(String::new(), |text| format!(": {text}"));
    Failure::usage(format!("`{origin}/{file}{line}`: {}{detail}", error.kind()))
        .hint("`prompts/README.md` lists the variables of each template")
}

fn embedded_files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![&EMBEDDED];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        for file in folder.files() {
            if let (Some(name), Some(text)) = (file.path().to_str(), file.contents_utf8())
                && name != README
            {
                files.insert(name.replace('\\', "/"), text.to_owned());
            }
        }
    }
    files
}

/// Reads every file below a folder except hidden ones and the README; names are relative to the folder.
fn collect_files(
    folder: &Path,
    prefix: &str,
    files_found: &mut Vec<(String, String)>,
) -> Result<(), (String, std::io::Error)> {
    let with_path = |path: &Path| {
        let path = path.display().to_string();
        move |error| (path, error)
    };
    for entry in std::fs::read_dir(folder).map_err(with_path(folder))? {
        let entry = entry.map_err(with_path(folder))?;
        let path = entry.path();
        let file = entry.file_name().to_string_lossy().into_owned();
        let name = format!("{prefix}{file}");
        if file.starts_with('.') || name == README {
            continue;
        }
        // This does not follow symbolic links, which could form a loop.
        let metadata = entry.metadata().map_err(with_path(&path))?;
        if metadata.is_dir() {
            collect_files(&path, &format!("{name}/"), files_found)?;
        } else if metadata.len() > MAX_FILE_BYTES {
            let error = std::io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes"));
            return Err(with_path(&path)(error));
        } else {
            let text = std::fs::read_to_string(&path).map_err(with_path(&path))?;
            files_found.push((name, text));
        }
    }
    Ok(())
}
