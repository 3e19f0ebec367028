//! The templates: those within the program, and a folder's that take their place file by file. Compiled once.
//!
//! What is not a template (kernels that serve as examples) is kept as it is.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};

use super::Language;
use crate::base::text::did_you_mean;
use crate::base::{Failure, yaml};

static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/prompts");

/// Files of these folders are a list: a user's folder may add to them.
const CARDS_FOLDER: &str = "cards/";
const README: &str = "README.md";
/// The largest file of a user's folder.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// All templates, ready to be rendered.
pub struct Templates {
    environment: Environment<'static>,
    cards: Vec<Card>,
    examples: Vec<ExampleKernel>,
    version: String,
}

/// A strategy to try, by stage of the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// The file's name without its ending.
    pub name: String,
    pub stage: CardStage,
    /// When it applies, in one line.
    pub when: String,
    pub languages: Vec<Language>,
}

/// What a strategy works on.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CardHeader {
    stage: CardStage,
    when: String,
    languages: Vec<Language>,
}

/// A kernel that shows how something is written.
#[derive(Clone, Debug)]
pub struct ExampleKernel {
    /// Such as `cuda/bf16_vectors.cu`.
    pub name: String,
    pub language: Language,
    pub source: String,
}

impl Templates {
    /// Those within the program.
    ///
    /// # Errors
    /// Never, as long as the program's own templates are sound: its tests see to that.
    pub fn embedded() -> Result<Self, Failure> {
        Self::compile(embedded_files(), "prompts")
    }

    /// Those within the program, with the files of a folder in place of those that are called as they are.
    ///
    /// # Errors
    /// `Failure::usage` that names the file and its line.
    pub(crate) fn with_folder(folder: &Path) -> Result<Self, Failure> {
        let mut files = embedded_files();
        let origin = folder.display().to_string();
        let mut found = Vec::new();
        collect_files(folder, "", &mut found).map_err(|(path, error)| {
            Failure::usage(format!("`{path}`: {error}")).hint(
                "`llm.prompts` names a folder of templates, laid out as kforge's own `prompts/`",
            )
        })?;
        for (name, text) in found {
            let may_be_new = name.starts_with(CARDS_FOLDER) || example_language(&name).is_some();
            if !may_be_new && !files.contains_key(&name) {
                let known = files.keys().map(String::as_str);
                return Err(
                    Failure::usage(format!("`{origin}/{name}`: no template is called so"))
                        .hint(did_you_mean(&name, known)),
                );
            }
            files.insert(name, text);
        }
        let templates = Self::compile(files, &origin)?;
        super::template_check::check(&templates)?;
        Ok(templates)
    }

    fn compile(files: BTreeMap<String, String>, origin: &str) -> Result<Self, Failure> {
        let parts = (files.iter()).flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
        let mut version = crate::base::Digest::of_parts(parts).to_string();
        version.truncate(12);
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        syntax.keep_trailing_newline(true);
        // Only delimiters can be refused, and these are the usual ones.
        environment.set_syntax(syntax.build().unwrap_or_default());
        let mut cards = Vec::new();
        let mut examples = Vec::new();
        for (name, text) in files {
            if let Some(language) = example_language(&name) {
                examples.push(ExampleKernel {
                    name,
                    language,
                    source: text,
                });
                continue;
            }
            let mut template = text;
            if let Some(card) = name.strip_prefix(CARDS_FOLDER) {
                let file = format!("{origin}/{name}");
                let (head, body) = split_card(&template, &file)?;
                cards.push(Card {
                    name: card.trim_end_matches(".md").to_owned(),
                    stage: head.stage,
                    when: head.when,
                    languages: head.languages,
                });
                template = body;
            }
            environment
                .add_template_owned(name.clone(), template)
                .map_err(|error| template_error(origin, &name, &error))?;
        }
        cards.sort_by(|a, b| (a.stage, &a.name).cmp(&(b.stage, &b.name)));
        Ok(Self {
            environment,
            cards,
            examples,
            version,
        })
    }

    /// Twelve digits that change with every letter of every template.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The strategy cards of a language, by stage and name.
    pub(crate) fn cards(&self, language: Language) -> impl Iterator<Item = &Card> {
        (self.cards.iter()).filter(move |card| card.languages.contains(&language))
    }

    /// The examples of a language, by name.
    pub(crate) fn examples(&self, language: Language) -> impl Iterator<Item = &ExampleKernel> {
        (self.examples.iter()).filter(move |example| example.language == language)
    }

    /// A template's text with its blanks filled.
    pub(super) fn render(&self, name: &str, values: Value) -> Result<String, Failure> {
        let rendered = (self.environment.get_template(name))
            .and_then(|template| template.render(values))
            .map_err(|error| template_error("prompts", name, &error))?;
        Ok(rendered)
    }

    /// A strategy card's text.
    pub(super) fn card(&self, name: &str, values: Value) -> Result<String, Failure> {
        if !self.cards.iter().any(|card| card.name == name) {
            let known = self.cards.iter().map(|card| card.name.as_str());
            return Err(
                Failure::usage(format!("no strategy card is called `{name}`"))
                    .hint(did_you_mean(name, known)),
            );
        }
        self.render(&format!("{CARDS_FOLDER}{name}.md"), values)
    }
}

/// `cuda/NAME.cu` and `metal/NAME.metal` are examples.
fn example_language(name: &str) -> Option<Language> {
    if name.starts_with("cuda/") && name.ends_with(".cu") {
        Some(Language::Cuda)
    } else if name.starts_with("metal/") && name.ends_with(".metal") {
        Some(Language::Metal)
    } else {
        None
    }
}

/// The YAML between the two lines `---` that a card begins with, and what follows.
fn split_card(text: &str, file: &str) -> Result<(CardHeader, String), Failure> {
    let parts = text
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n"));
    let Some((head, body)) = parts else {
        return Err(Failure::usage(format!(
            "`{file}`: a card begins with `---`, its head, and `---`"
        ))
        .hint("the head has `stage`, `when` and `languages`: see `prompts/README.md`"));
    };
    Ok((
        yaml::read_with_line(head, file, 1)?,
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
        .hint("`prompts/README.md` lists what each template is given")
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

/// Every file below a folder, hidden ones and the manual aside, by its name within.
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
        // Links are not followed into loops: a template lies where it is.
        let metadata = entry.metadata().map_err(with_path(&path))?;
        if metadata.is_dir() {
            collect_files(&path, &format!("{name}/"), files_found)?;
        } else if metadata.len() > MAX_FILE_BYTES {
            let error = std::io::Error::other("larger than any template can be");
            return Err(with_path(&path)(error));
        } else {
            files_found.push((
                name,
                std::fs::read_to_string(&path).map_err(with_path(&path))?,
            ));
        }
    }
    Ok(())
}
