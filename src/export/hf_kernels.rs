//! Format `hf-kernels`: a kernel of the Hugging Face Hub. `kernel-builder` builds it for each PyTorch and CUDA, and the Python package
//! `kernels` loads it.
//!
//! The layout is that of edition 5 of `build.toml`: the CUDA files, the operator in `torch-ext`, its Python module, the card, and the
//! flake for builds with Nix.

use anyhow::Result;
use serde_json::json;

use super::binding::{Binding, BindingKind};
use super::c::{arch, chooses_target};
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, render};
use super::torch::package;

const BUILD: &str = include_str!("templates/hf_build.toml.j2");
const CARD: &str = include_str!("templates/hf_card.md.j2");
const FLAKE: &str = include_str!("templates/hf_flake.nix.j2");

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    let binding = Binding::new(exporter, "hf-kernels", false)?;
    let name = exporter.plan.name;
    let hub_name = hub_name(name);
    let module = hub_name.replace('-', "_");
    let folder = format!("{name}_cuda");
    let flags = binding.code.flags.iter();
    let flags: Vec<_> = flags
        .filter(|flag| !chooses_target(flag) && !flag.starts_with("-O"))
        .collect();
    let outputs = binding.outputs.iter();
    let values = json!({
        "p": binding.code.view,
        "banner": comment(&exporter.provenance.lines(), "#"),
        "lines": exporter.provenance.lines(),
        "hub_name": hub_name,
        "folder": folder,
        "flags": flags,
        "capability": capability(&arch(exporter, &binding.code.view)),
        "names": binding.names(),
        "outputs": outputs.map(|output| &output.ident).collect::<Vec<_>>(),
    });
    let interface = format!("#include \"{name}.h\"");
    let source = binding.source(BindingKind::HubOperator, &interface)?;
    Ok(ExportedFiles::from([
        (
            "build.toml".to_owned(),
            render("build.toml", BUILD, &values)?,
        ),
        ("CARD.md".to_owned(), render("CARD.md", CARD, &values)?),
        ("flake.nix".to_owned(), render("flake.nix", FLAKE, &values)?),
        ("torch-ext/torch_binding.cpp".to_owned(), source),
        (
            format!("torch-ext/{module}/__init__.py"),
            package(&binding, true)?,
        ),
        (format!("{folder}/{name}.h"), binding.code.header),
        (format!("{folder}/{name}.cu"), binding.code.source),
    ]))
}

/// A name of the Hub: small letters, digits and dashes; at least two, a letter first and no dash last.
fn hub_name(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let name = name.trim_end_matches('-');
    match name.len() {
        1 => format!("{name}-kernel"),
        _ => name.to_owned(),
    }
}

/// An architecture such as `sm_90a` as CUDA's capability: `9.0a`. `None` for that of the machine.
fn capability(arch: &str) -> Option<String> {
    let arch = arch.strip_prefix("sm_")?;
    let end = arch.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let (major, minor) = end.split_at_checked(end.len().checked_sub(1)?)?;
    let variant = &arch[end.len()..];
    (!major.is_empty()).then(|| format!("{major}.{minor}{variant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_capabilities_are_those_of_the_hub() {
        assert_eq!(hub_name("gdn_decode"), "gdn-decode");
        assert_eq!(hub_name("K_"), "k-kernel");
        for (arch, expected) in [
            ("sm_90", Some("9.0")),
            ("sm_90a", Some("9.0a")),
            ("sm_120", Some("12.0")),
            ("native", None),
        ] {
            assert_eq!(capability(arch).as_deref(), expected, "{arch}");
        }
    }
}
