//! What a compiler alone said of a kernel, for people.

use crate::verdict::CompiledOnly;

/// A line for each variant, or what stopped the compiler with its words.
pub(crate) fn describe_compiled(found: &CompiledOnly) -> String {
    let mut text = format!(
        "{}: {} for {} by {}, not run, {:.2} s\n",
        found.kernel,
        match found.status {
            None => "compiled".to_owned(),
            Some(status) => status.to_string(),
        },
        found.device.arch,
        found.compiler,
        found.seconds.compile
    );
    for variant in &found.variants {
        let mut name = match variant.variant {
            Some(index) => format!("variant {index}"),
            None => "values".to_owned(),
        };
        for (tunable, value) in &variant.tunables {
            name += &format!(" {tunable}={value}");
        }
        let number =
            |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let resources = &variant.resources;
        text += &format!(
            "  {name}: {} registers, {} bytes spilled, {} bytes of static shared memory\n",
            number(resources.registers.map(u64::from)),
            number(resources.spill_bytes),
            number(resources.shared_bytes)
        );
        text += &indent(&variant.log);
    }
    if let Some(reason) = &found.reason {
        text += &format!("  {reason}\n");
    }
    let log = found
        .evidence
        .as_ref()
        .and_then(|evidence| evidence.log.as_deref());
    text + &indent(log.unwrap_or_default())
}

fn indent(log: &str) -> String {
    log.lines().map(|line| format!("    {line}\n")).collect()
}
