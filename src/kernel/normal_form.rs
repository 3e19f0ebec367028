//! Which kernel files are the same before they are compiled: they differ in nothing but comments, white space and the order of the
//! header's keys. Also what a header contributes to a kernel besides its code.
//!
//! Files with the same normal form are always the same kernel. If the meaning of a file could depend on comments or white space, for
//! example because it uses its line numbers, it has no normal form.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Kernel;
use super::header_comment::find_header;
use super::lexer::{LexemeKind, lex};
use crate::base::Digest;
use crate::base::yaml::read_header;

/// Symbols that never join with a neighbour to another token.
const SEPARATE_SYMBOLS: [&str; 8] = ["(", ")", "[", "]", "{", "}", ";", ","];

/// Parts of what gives code its line number.
const LAYOUT_WORDS: [&str; 3] = ["_LINE_", "_LINE(", "source_location"];

/// The hash of the normal form of a kernel file. `None` if it has no header that can be read, or if its code depends on its layout.
pub(crate) fn normal_form(text: &str) -> Option<Digest> {
    let header = canonical(&read_keys(text)?);
    let code = code_form(text)?;
    Some(Digest::of_parts([header.as_bytes(), code.as_bytes()]))
}

impl Kernel {
    /// A hash of what the header decides besides the compiled code: launches, scratch, tensor maps, when its variants apply, and the
    /// values of the tunables that it computes with. Constraints and the names of functions do not count. `None` if the header cannot be
    /// read.
    pub(crate) fn launch_identity(&self) -> Option<Digest> {
        let mut header = read_keys(&self.text)?;
        let keys = header.as_object_mut()?;
        keys.remove("tunables");
        keys.remove("constraints");
        for launch in one_or_many(keys.get_mut("launch")) {
            launch.as_object_mut()?.remove("kernel");
        }
        for variant in one_or_many(keys.get_mut("variants")) {
            variant.as_object_mut()?.retain(|key, _| key == "when");
        }
        let text = canonical(&header);
        let words = identifiers(&text);
        let mut identity = text.clone();
        let variants = (0..self.header.variants.len()).map(Some);
        for variant in variants.chain([None]) {
            let values = self.tunable_values(variant);
            let used = values
                .iter()
                .filter(|(name, _)| words.contains(name.as_str()));
            identity.push_str(&format!(
                "\n{variant:?} {:?}",
                used.collect::<BTreeSet<_>>()
            ));
        }
        Some(Digest::of(identity))
    }
}

/// The header's YAML without its layout.
fn read_keys(text: &str) -> Option<Value> {
    let header = find_header(text).ok()?;
    read_header(&text[header.body], header.lines_before).ok()
}

fn one_or_many(value: Option<&mut Value>) -> &mut [Value] {
    match value {
        Some(Value::Array(items)) => items,
        Some(one) => std::slice::from_mut(one),
        None => &mut [],
    }
}

/// JSON with sorted keys.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(keys) => {
            let mut sorted: Vec<_> = keys.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            let entries: Vec<_> = (sorted.into_iter())
                .map(|(key, value)| format!("{key:?}:{}", canonical(value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// The identifiers in a text.
fn identifiers(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .collect()
}

/// The code without comments, and with white space only where it may matter. `None` if a macro makes text of code, or if the code may
/// use its line numbers.
fn code_form(text: &str) -> Option<String> {
    if LAYOUT_WORDS.iter().any(|word| text.contains(word)) {
        return None;
    }
    let mut form = String::with_capacity(text.len());
    let mut last: Option<(LexemeKind, &str, usize)> = None;
    for lexeme in lex(text) {
        let word = &text[lexeme.range.clone()];
        if lexeme.kind == LexemeKind::Directive {
            // Directives keep their own layout.
            if word.starts_with('%') || word[1..].contains('#') {
                return None;
            }
            form.push('\n');
            form.push_str(word.trim_end());
            form.push('\n');
            last = None;
            continue;
        }
        if word == "\\" {
            return None;
        }
        if let Some((kind, before, end)) = last
            && end < lexeme.range.start
            && may_join((kind, before), (lexeme.kind, word))
        {
            form.push(' ');
        }
        form.push_str(word);
        last = Some((lexeme.kind, word, lexeme.range.end));
    }
    Some(form)
}

/// Whether two lexemes could mean something else without the white space between them.
fn may_join(one: (LexemeKind, &str), other: (LexemeKind, &str)) -> bool {
    use LexemeKind::{Identifier, Symbol};
    let is_separate =
        |(kind, word): (LexemeKind, &str)| kind == Symbol && SEPARATE_SYMBOLS.contains(&word);
    let is_word_and_symbol = matches!(
        (one.0, other.0),
        (Identifier, Symbol) | (Symbol, Identifier)
    );
    !(is_separate(one) || is_separate(other) || is_word_and_symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "/* kforge
launch:
  - kernel: rows<ROWS>
    grid: ceil_div(n, 4), 1
    block: 128
    args: x, output, n
tunables:
  ROWS: [4, 1, 2]
  UNROLL: [1, 2]
*/
// Adds one.
#define PART 4
__global__ void rows(const float* x, float* output, int n) {
    int i = blockIdx.x * PART + - -n; // why
    if (i < n && n >> 1) output[i] = x[i] + 1.0f;
}
";

    #[test]
    fn layout_and_comments_do_not_change_the_form() {
        let form = normal_form(KERNEL);
        assert!(form.is_some());
        for (old, new) in [
            ("// Adds one.\n", ""),
            ("// Adds one.\n", "/* Adds\none */ // more\n"),
            ("; // why", "  ;\n\n"),
            ("float* output, int", "float *output,int"),
            ("blockIdx.x * PART", "blockIdx.x*PART"),
            ("output[i] = x", "output [ i ]\n=x"),
            (
                "    block: 128\n    args: x, output, n\n",
                "    args: x, output, n\n    block: 128\n",
            ),
            (
                "  ROWS: [4, 1, 2]\n  UNROLL: [1, 2]",
                "  UNROLL: [1, 2] # steps\n  ROWS: [4, 1, 2]",
            ),
        ] {
            let changed = KERNEL.replacen(old, new, 1);
            assert_ne!(changed, KERNEL, "{old}");
            assert_eq!(normal_form(&changed), form, "{old}");
        }
    }

    #[test]
    fn differences_that_may_matter_change_the_normal_form() {
        let form = normal_form(KERNEL);
        for (old, new) in [
            ("- -n", "--n"),
            ("n >> 1", "n > > 1"),
            ("n && n", "n & & n"),
            ("1.0f", "1 .0f"),
            ("int i", "inti"),
            ("#define PART 4", "#define PART 8"),
            ("#define PART 4\n", ""),
            ("ROWS: [4, 1, 2]", "ROWS: [1, 4, 2]"),
            ("block: 128", "block: 64"),
            ("args: x, output, n", "args: output, x, n"),
        ] {
            let changed = KERNEL.replacen(old, new, 1);
            assert_ne!(changed, KERNEL, "{old}");
            assert_ne!(normal_form(&changed), form, "{old}");
        }
    }

    #[test]
    fn code_that_depends_on_its_layout_has_no_normal_form() {
        for line in ["int l = __LINE__;", "#define T(x) #x", "int \\\n l;"] {
            assert_eq!(normal_form(&KERNEL.replace("// Adds one.", line)), None);
        }
        assert_eq!(normal_form("__global__ void rows() {}"), None);
        for end in 0..KERNEL.len() {
            let _ = normal_form(&KERNEL[..end]);
        }
    }
}
