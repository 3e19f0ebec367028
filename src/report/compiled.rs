//! The result of compiling a kernel without running it, as text.
//!
//! Pure: from the result to text.

use super::text::indent;
use crate::verdict::CompiledOnly;

/// A line per variant, then what stopped the compiler and its log.
pub(crate) fn describe_compiled(compiled: &CompiledOnly) -> String {
    let status = match compiled.status {
        None => "compiled".to_owned(),
        Some(status) => status.to_string(),
    };
    let mut text = format!(
        "{}: {status} for {} by {}, not run, {:.2} s\n",
        compiled.kernel, compiled.device.arch, compiled.compiler, compiled.seconds.compile
    );
    let number =
        |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    for variant in &compiled.variants {
        let mut name = match variant.variant {
            Some(index) => format!("variant {index}"),
            None => "values".to_owned(),
        };
        for (tunable, value) in &variant.tunables {
            name += &format!(" {tunable}={value}");
        }
        let resources = &variant.resources;
        text += &format!(
            "  {name}: {} registers, {} bytes spilled, {} bytes of static shared memory\n",
            number(resources.registers.map(u64::from)),
            number(resources.spill_bytes),
            number(resources.shared_bytes)
        );
        text += &indent(&variant.log, 4);
    }
    for note in &compiled.notes {
        text += &format!("  note: {note}\n");
    }
    if let Some(reason) = &compiled.reason {
        text += &format!("  {reason}\n");
    }
    let evidence = compiled.evidence.as_ref();
    let log = evidence.and_then(|evidence| evidence.log.as_deref());
    text + &indent(log.unwrap_or_default(), 4)
}
