//! Which file of `src` imports which, read from the sources.
//!
//! **The rule.** File A imports file B if a path in A leads to an item that B defines. The paths are those of `use` declarations and
//! those in code: `crate::a::b`, `super::x`, `self::x`, `child::x`, and names that `use` brings in. A path is followed through
//! modules and re-exports to the defining file. If `a/mod.rs` only re-exports `Thing` from `a/c.rs`, then `use super::Thing` in
//! `a/b.rs` is an import of `a/c.rs`.
//!
//! These are no imports: `mod child;`; `pub use child::X`, unless the file also uses `X`; a module as such; calls of methods on
//! values; everything that is compiled for tests only. Paths to other crates are ignored.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::{Token, closing, tokens};

/// What a file declares, and what it names.
#[derive(Default)]
struct Source {
    path: String,
    children: BTreeSet<String>,
    items: BTreeSet<String>,
    bindings: Vec<Binding>,
    /// Module paths of `use …::*`.
    globs: Vec<Vec<String>>,
    /// Paths in code, without those of `use` declarations, with their lines. A name alone is one where it may be an item's.
    named: Vec<(Vec<String>, usize)>,
}

/// One name that a `use` declaration brings into a file.
struct Binding {
    name: String,
    path: Vec<String>,
    line: usize,
    is_public: bool,
}

/// File A, file B, and the first path of A that leads into B, with its line.
pub(crate) type Imports = BTreeMap<(String, String), String>;

/// The sources that are compiled outside of tests, as paths below `src/`.
pub(crate) fn compiled<'s>(
    sources: impl IntoIterator<Item = (String, &'s str)>,
) -> BTreeSet<String> {
    let modules = modules(sources);
    modules.into_values().map(|source| source.path).collect()
}

/// The imports between sources, given as paths below `src/` (such as `search/mod.rs`) with their texts.
pub(crate) fn imports<'s>(sources: impl IntoIterator<Item = (String, &'s str)>) -> Imports {
    let modules = modules(sources);
    let mut found = Imports::new();
    for (module, source) in &modules {
        let mut add = |path: &[String], line: usize| {
            if let Some(file) = resolve(&modules, module, path, 0)
                && file != source.path
            {
                let key = (source.path.clone(), file);
                found
                    .entry(key)
                    .or_insert_with(|| format!("{}:{line}", path.join("::")));
            }
        };
        for binding in &source.bindings {
            let is_used = || source.named.iter().any(|(path, _)| path[0] == binding.name);
            if !binding.is_public || is_used() {
                add(&binding.path, binding.line);
            }
        }
        for (path, line) in &source.named {
            add(path, *line);
        }
    }
    found
}

/// The pairs of files that import each other, each with one path for each direction.
pub(crate) fn cycles(imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    for ((one, other), path) in imports {
        if let Some(back) = imports.get(&(other.clone(), one.clone()))
            && one < other
        {
            found.push(format!("{one} ({path}) and {other} ({back})"));
        }
    }
    found
}

/// The library's modules, without those that are compiled for tests only.
fn modules<'s>(
    sources: impl IntoIterator<Item = (String, &'s str)>,
) -> BTreeMap<Vec<String>, Source> {
    let mut modules: BTreeMap<Vec<String>, Source> = sources
        .into_iter()
        // The binary's root is another crate.
        .filter(|(path, _)| path != "main.rs")
        .map(|(path, text)| (module_path(&path), read(path, &tokens(text))))
        .collect();
    let compiled = reachable(&modules);
    modules.retain(|module, _| compiled.contains(module));
    modules
}

/// The modules that `mod` declarations lead to from the crate's root: those that are not compiled for tests only.
fn reachable(modules: &BTreeMap<Vec<String>, Source>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![Vec::new()];
    while let Some(module) = open.pop() {
        let children = modules.get(&module).map(|source| &source.children);
        for child in children.into_iter().flatten() {
            open.push([module.as_slice(), std::slice::from_ref(child)].concat());
        }
        found.insert(module);
    }
    found
}

/// `["search", "fold"]` for `search/fold.rs`, and nothing for the crate's root.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// Reads one file.
fn read(path: String, tokens: &[Token]) -> Source {
    let mut source = Source {
        path,
        ..Source::default()
    };
    let (mut at, mut depth) = (0, 0);
    while at < tokens.len() {
        let token = &tokens[at];
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "use"
                if tokens
                    .get(at + 1)
                    .is_some_and(|next| next.is_name() || next.is("{")) =>
            {
                let is_public = at > 0 && (tokens[at - 1].is("pub") || is_restricted(tokens, at));
                at = read_use(&mut source, tokens, at + 1, is_public);
                continue;
            }
            "mod" if tokens.get(at + 2).is_some_and(|end| end.is(";")) => {
                source.children.insert(tokens[at + 1].text.clone());
            }
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union"
                if depth == 0 =>
            {
                let name = tokens[at + 1..].iter().find(|next| !next.is("mut"));
                source.items.extend(name.map(|name| name.text.clone()));
            }
            _ => {}
        }
        let is_start = at == 0 || !["::", ".", "mod", "fn"].contains(&tokens[at - 1].text.as_str());
        if token.is_name() && is_start {
            let mut path = vec![token.text.clone()];
            let mut end = at + 1;
            while tokens.get(end).is_some_and(|next| next.is("::"))
                && tokens.get(end + 1).is_some_and(Token::is_name)
            {
                path.push(tokens[end + 1].text.clone());
                end += 2;
            }
            // A local variable or a field may have the name of a function.
            let is_item = path.len() > 1
                || token.text.starts_with(char::is_uppercase)
                || tokens.get(end).is_some_and(|next| next.is("("));
            if is_item {
                source.named.push((path, token.line));
            }
        }
        at += 1;
    }
    source
}

/// Whether `pub(crate)` or the like is before the token.
fn is_restricted(tokens: &[Token], at: usize) -> bool {
    let open = (0..at).rev().take(6).find(|index| tokens[*index].is("("));
    tokens[at - 1].is(")") && open.is_some_and(|open| open > 0 && tokens[open - 1].is("pub"))
}

/// Reads the declaration behind `use`, and returns where it ends.
fn read_use(source: &mut Source, tokens: &[Token], start: usize, is_public: bool) -> usize {
    let end = (start..tokens.len())
        .find(|at| tokens[*at].is(";"))
        .unwrap_or(tokens.len());
    read_tree(source, &tokens[start..end], &[], is_public);
    end + 1
}

/// One tree of a `use` declaration: a path that ends in a name, `*`, or a group of trees.
fn read_tree(source: &mut Source, tokens: &[Token], prefix: &[String], is_public: bool) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "::" => {}
            "*" => {
                source.globs.push(path);
                return;
            }
            "{" => {
                let group = &tokens[at + 1..closing(tokens, at)];
                for tree in split(group) {
                    read_tree(source, tree, &path, is_public);
                }
                return;
            }
            "as" => {
                let name = tokens[at + 1].text.clone();
                source.bindings.push(Binding {
                    name,
                    path,
                    line: tokens[at].line,
                    is_public,
                });
                return;
            }
            // `a::{self}` binds `a`.
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    if let (Some(name), Some(last)) = (path.last().cloned(), tokens.last()) {
        source.bindings.push(Binding {
            name,
            path,
            line: last.line,
            is_public,
        });
    }
}

/// The parts between top-level commas.
fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => {
                parts.push(&tokens[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// The file that defines the item to which a path leads, as seen from a module. `None` for modules and other crates.
fn resolve(
    modules: &BTreeMap<Vec<String>, Source>,
    module: &[String],
    path: &[String],
    depth: usize,
) -> Option<String> {
    let (first, rest) = path.split_first()?;
    // Two modules may import each other's names by `*`.
    if depth > 16 {
        return None;
    }
    match first.as_str() {
        "crate" => return resolve(modules, &[], rest, depth + 1),
        "self" => return resolve(modules, module, rest, depth + 1),
        "super" => {
            return resolve(
                modules,
                &module[..module.len().checked_sub(1)?],
                rest,
                depth + 1,
            );
        }
        _ => {}
    }
    let source = modules.get(module)?;
    if source.children.contains(first) {
        let child = [module, std::slice::from_ref(first)].concat();
        return resolve(modules, &child, rest, depth + 1);
    }
    if source.items.contains(first) {
        return Some(source.path.clone());
    }
    for binding in source
        .bindings
        .iter()
        .filter(|binding| binding.name == *first)
    {
        let path = [&binding.path, rest].concat();
        if binding.path != [first.clone()]
            && let Some(file) = resolve(modules, module, &path, depth + 1)
        {
            return Some(file);
        }
    }
    source.globs.iter().find_map(|glob| {
        let path = [glob.as_slice(), path].concat();
        resolve(modules, module, &path, depth + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
        let root = files
            .iter()
            .map(|(path, _)| path.split('/').next().unwrap());
        let lib: String = root.map(|module| format!("mod {module};\n")).collect();
        let mut all = files.to_vec();
        all.push(("lib.rs", &lib));
        cycles(&imports(
            all.into_iter().map(|(path, text)| (path.to_owned(), text)),
        ))
    }

    #[test]
    fn siblings_that_import_each_other_are_found() {
        let found = cycles_of(&[
            ("a/mod.rs", "mod one; mod other;"),
            (
                "a/one.rs",
                "use super::other::{self, Other};\npub struct One;\n",
            ),
            (
                "a/other.rs",
                "pub struct Other;\nfn f() -> crate::a::one::One {}\n",
            ),
        ]);
        assert_eq!(
            found,
            ["a/one.rs (super::other::Other:1) and a/other.rs (crate::a::one::One:2)"]
        );
    }

    #[test]
    fn imports_are_followed_through_re_exports() {
        let parent = (
            "a/mod.rs",
            "mod one; mod other; pub use one::One; pub(crate) use other::*;",
        );
        let other = ("a/other.rs", "pub fn help() { super::One::new() }");
        let found = cycles_of(&[
            parent,
            ("a/one.rs", "pub struct One; fn f() { super::help() }"),
            other,
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(cycles_of(&[parent, ("a/one.rs", "pub struct One;"), other]).is_empty());
    }

    #[test]
    fn a_parent_that_only_re_exports_does_not_import_its_child() {
        let child = ("a/one.rs", "use super::Shared;\npub fn one() {}\n");
        for parent in [
            "mod one; pub use one::one; pub struct Shared;",
            "mod one; pub struct Shared; #[cfg(test)] mod tests { use super::one::one; }",
            "mod one; pub struct Shared; /* one::one() */ const TEXT: &str = \"one::one()\";",
        ] {
            assert!(
                cycles_of(&[("a/mod.rs", parent), child]).is_empty(),
                "{parent}"
            );
        }
        for parent in [
            "mod one; pub use one::one; pub struct Shared; fn f() { one() }",
            "mod one; use one::one; pub struct Shared;",
            "mod one; pub struct Shared; fn f() { one::one() }",
        ] {
            assert_eq!(
                cycles_of(&[("a/mod.rs", parent), child]).len(),
                1,
                "{parent}"
            );
        }
    }
}
