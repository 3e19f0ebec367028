//! `kforge completions` and `kforge man`: what a shell and a package need, made from the argument declarations.
//!
//! Commands that other kforge processes use are left out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use anyhow::Context;

/// The version, and what it was built from: a commit and its date, or that it is a development build.
pub(super) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("KFORGE_BUILD"), ")");

/// Arguments of `kforge completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = completions_help())]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Arguments of `kforge man`.
#[derive(Debug, clap::Args)]
#[command(after_help = man_help())]
pub(super) struct ManArgs {
    /// Folder to write to. It is made if it does not exist.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn completions_help() -> String {
    exit::help(
        "",
        &[
            (
                "kforge completions bash > ~/.local/share/bash-completion/completions/kforge",
                "for bash",
            ),
            (
                "kforge completions zsh > ~/.zfunc/_kforge",
                "for zsh, with ~/.zfunc in fpath",
            ),
            (
                "kforge completions fish > ~/.config/fish/completions/kforge.fish",
                "for fish",
            ),
        ],
        exit::PRINT_CODES,
    )
}

fn man_help() -> String {
    exit::help(
        "Replaces pages of an earlier version.",
        &[
            (
                "kforge man ~/.local/share/man/man1",
                "for `man kforge-evolve`",
            ),
            ("kforge man man && man ./man/kforge.1", "read them here"),
        ],
        exit::WRITE_CODES,
    )
}

/// `program`: all argument declarations.
pub(super) fn completions(
    arguments: &CompletionsArgs,
    program: &clap::Command,
) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut visible(program),
        "kforge",
        &mut script,
    );
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// `program`: all argument declarations.
pub(super) fn man(arguments: &ManArgs, program: &clap::Command) -> anyhow::Result<Exit> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("failed to create `{}`", folder.display()))?;
    let mut command = visible(program);
    command.build();
    let mut written = Vec::new();
    write_pages(folder, "kforge", &command, &mut written)?;
    let facts = || serde_json::json!({"written": written});
    match arguments.format {
        Format::Human => print(&format!(
            "wrote {} pages to {}; `man {}` shows one\n",
            written.len(),
            folder.display(),
            folder.join("kforge.1").display()
        ))?,
        Format::Json => print_json(&facts())?,
        Format::Jsonl => print_json_lines([facts()])?,
    }
    Ok(Exit::Done)
}

/// The command without hidden subcommands, which the generators would list.
fn visible(command: &clap::Command) -> clap::Command {
    let shown = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set());
    clap::Command::new("kforge")
        .version(VERSION)
        .about(command.get_about().cloned().unwrap_or_default())
        .after_help(command.get_after_help().cloned().unwrap_or_default())
        .args(command.get_arguments().cloned())
        .subcommands(shown.cloned())
        .subcommand_required(true)
}

/// Writes the page of a command and those of its subcommands.
fn write_pages(
    folder: &Path,
    name: &str,
    command: &clap::Command,
    written: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, page(name, command)?)
        .with_context(|| format!("failed to write `{}`", path.display()))?;
    written.push(path);
    let subcommands = command.get_subcommands();
    for subcommand in subcommands.filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        let name = format!("{name}-{}", subcommand.get_name());
        write_pages(folder, &name, subcommand, written)?;
    }
    Ok(())
}

fn page(name: &str, command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let man = clap_mangen::Man::new(command.clone()).title(name.to_uppercase());
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let after = command.get_after_help().map(ToString::to_string);
    text.extend(sections(&after.unwrap_or_default()).into_bytes());
    Ok(text)
}

/// The end of a help text as sections whose lines stay as they are.
fn sections(after_help: &str) -> String {
    let mut text = String::new();
    let mut is_first_note = true;
    for part in after_help.split("\n\n") {
        let (title, body) = match part.split_once('\n') {
            Some(("Examples:", body)) => ("EXAMPLES", body),
            Some(("Exit codes:", body)) => ("EXIT STATUS", body),
            _ => ("NOTES", part),
        };
        if body.is_empty() {
            continue;
        }
        if title != "NOTES" || is_first_note {
            let _ = writeln!(text, ".SH {title}");
        } else {
            text += ".PP\n";
        }
        is_first_note &= title != "NOTES";
        text += ".nf\n";
        for line in body.lines() {
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            let is_request = line.starts_with(['.', '\'']);
            let _ = writeln!(text, "{}{line}", if is_request { "\\&" } else { "" });
        }
        text += ".fi\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_page_are_no_requests() {
        let text = sections(".a note\n\nExamples:\n  kforge x\n\nExit codes:\n  0  done");
        assert_eq!(
            text,
            ".SH NOTES\n.nf\n\\&.a note\n.fi\n.SH EXAMPLES\n.nf\n  kforge x\n.fi\n.SH EXIT STATUS\n.nf\n  0  done\n.fi\n"
        );
    }
}
