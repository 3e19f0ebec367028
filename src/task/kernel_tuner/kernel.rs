//! Writes kernel files from the kernel of a T1 file: the starting kernel with its tunables, and an oracle of its first configuration.

use super::arguments::{Argument, Role};
use super::space::Space;
use crate::base::Failure;
use crate::task::DType;

/// What the kernel files are made of.
pub(super) struct KernelText<'k> {
    /// The T1 file, for messages.
    pub(super) origin: &'k str,
    /// The kernel's function.
    pub(super) name: &'k str,
    pub(super) source: &'k str,
    pub(super) space: &'k Space,
    pub(super) arguments: &'k [Argument],
    /// Expressions over the names of the T1 file.
    pub(super) block: Vec<String>,
    pub(super) grid: Vec<String>,
}

impl KernelText<'_> {
    /// The kernel with all its tunables.
    pub(super) fn kernel(&self) -> Result<String, Failure> {
        let mut header = format!("/* kforge\nlaunch:\n{}", self.launch()?);
        if !self.space.tunables.is_empty() {
            header += "tunables:\n";
        }
        for tunable in &self.space.tunables {
            let values: Vec<_> = tunable.values.iter().map(i64::to_string).collect();
            header += &format!("  {}: [{}]\n", tunable.name, values.join(", "));
        }
        let conditions: Vec<_> = (self.space.conditions.iter())
            .map(|condition| format!("  - {}\n", condition.text()))
            .collect();
        if !conditions.is_empty() {
            header += &format!("constraints:\n{}", conditions.concat());
        }
        header += "*/\n\n";
        Ok(header + &self.names() + self.source.trim_start())
    }

    /// The kernel in its first configuration, whose outputs are `double`.
    pub(super) fn oracle(&self) -> Result<String, Failure> {
        let mut header = "/* kforge\nlaunch:\n".to_owned();
        let mut copies = String::new();
        for argument in self.arguments {
            let (Role::InPlace, Some(output)) = (argument.role, argument.output_name()) else {
                continue;
            };
            let name = &argument.name;
            let elements = argument.elements();
            header += &format!(
                "  - kernel: begin_{name}\n    grid: ceil_div({elements}, 256)\n    block: 256\n    args: {name}, {output}, i64({elements})\n"
            );
            let element = argument.dtype.cuda_type();
            copies += &format!(
                "\n// `{name}` is read and written.\n__global__ void begin_{name}(const {element}* from, double* to, long long elements) {{\n    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;\n    if (i < elements) to[i] = double(from[i]);\n}}\n"
            );
        }
        header += &self.launch()?;
        header += "tunables:\n";
        for tunable in &self.space.tunables {
            header += &format!("  {}: {}\n", tunable.name, tunable.values[0]);
        }
        header +=
            "*/\n\n// The kernel itself, in one configuration, with outputs in double precision.\n";
        let source = self.with_double_outputs()?;
        Ok(header + &self.names() + source.trim_start().trim_end() + "\n" + &copies)
    }

    fn launch(&self) -> Result<String, Failure> {
        let sizes = |texts: &[String]| -> Result<String, Failure> {
            let mut read = Vec::new();
            for text in texts {
                let expression = self.space.expression(text).map_err(|message| {
                    Failure::usage(format!("{}: `{text}`: {message}", self.origin))
                        .hint("sizes of a launch are expressions of tunables with `+ - * //`")
                })?;
                read.push(expression.text().to_owned());
            }
            while read.len() > 1 && read.last().is_some_and(|size| size == "1") {
                read.pop();
            }
            Ok(read.join(", "))
        };
        let arguments: Vec<_> = self.arguments.iter().map(passed).collect();
        Ok(format!(
            "  - kernel: {}\n    grid: {}\n    block: {}\n    args: {}\n",
            self.name,
            sizes(&self.grid)?,
            sizes(&self.block)?,
            arguments.join(", ")
        ))
    }

    /// The names that the kernel has for tunables. Kernel Tuner defines them, and `kernel_tuner`.
    fn names(&self) -> String {
        let mut text = "#define kernel_tuner 1\n".to_owned();
        for tunable in &self.space.tunables {
            if tunable.own_name != tunable.name {
                text += &format!("#define {} {}\n", tunable.own_name, tunable.name);
            }
        }
        text + "\n"
    }

    /// The source with `double*` for the parameters that the kernel writes.
    fn with_double_outputs(&self) -> Result<String, Failure> {
        let failed = |message: String| {
            Failure::usage(format!("{}: {message}", self.origin)).hint(
                "name an oracle in Python: `--oracle FILE.py`, with a function `run` of the inputs",
            )
        };
        let parameters = parameters_of(self.source, self.name)
            .filter(|parameters| parameters.len() == self.arguments.len())
            .ok_or_else(|| {
                let count = self.arguments.len();
                failed(format!(
                    "there is no `{}` with {count} parameters",
                    self.name
                ))
            })?;
        let mut source = self.source.to_owned();
        // From the end, so that the places of the others stay.
        for (argument, range) in self.arguments.iter().zip(parameters).rev() {
            if argument.output_name().is_none() {
                continue;
            }
            let name = &argument.name;
            let element = match argument.dtype {
                DType::Float32 => "float",
                DType::Float64 => continue,
                other => {
                    return Err(failed(format!(
                        "the output `{name}` is {other}, so the kernel cannot be its own oracle"
                    )));
                }
            };
            let parameter = &self.source[range.clone()];
            let place = word(parameter, element);
            let place = place.filter(|_| parameter.contains('*')).ok_or_else(|| {
                failed(format!(
                    "the output `{name}` is `{}`, and not `{element}*`",
                    parameter.trim()
                ))
            })?;
            let start = range.start + place;
            source.replace_range(start..start + element.len(), "double");
        }
        Ok(source)
    }
}

/// An argument in the header.
fn passed(argument: &Argument) -> String {
    match (argument.role, argument.output_name()) {
        (Role::Constant(value), _) => value.to_string(),
        (_, Some(output)) => output,
        _ => argument.name.clone(),
    }
}

/// The ranges of the parameters of a function.
fn parameters_of(source: &str, name: &str) -> Option<Vec<std::ops::Range<usize>>> {
    let mut from = source.find("__global__")?;
    loop {
        let place = from + word(&source[from..], name)?;
        let after = place + name.len();
        let open = after + source[after..].len() - source[after..].trim_start().len();
        if !source[open..].starts_with('(') {
            from = after;
            continue;
        }
        let mut depth = 0;
        let mut ranges = Vec::new();
        let mut start = open + 1;
        for (offset, letter) in source[open..].char_indices() {
            let at = open + offset;
            match letter {
                '(' | '<' => depth += 1,
                ')' | '>' => depth -= 1,
                ',' if depth == 1 => {
                    ranges.push(start..at);
                    start = at + 1;
                }
                _ => {}
            }
            if depth == 0 {
                ranges.push(start..at);
                return Some(ranges);
            }
        }
        return None;
    }
}

/// Where a word is in a text.
fn word(text: &str, word: &str) -> Option<usize> {
    let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_';
    let found = text.match_indices(word).find(|(place, _)| {
        let before = text[..*place].chars().next_back();
        let after = text[place + word.len()..].chars().next();
        !before.is_some_and(is_letter) && !after.is_some_and(is_letter)
    });
    found.map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_kernel_are_found() {
        let source = "void add(int n);\nextern \"C\" __global__ void\nadd_all (float *c, const pair<int, int>* a, int n) { add(n); }";
        let ranges = parameters_of(source, "add_all").unwrap();
        let texts: Vec<_> = ranges
            .into_iter()
            .map(|range| source[range].trim())
            .collect();
        assert_eq!(texts, ["float *c", "const pair<int, int>* a", "int n"]);
        assert!(parameters_of(source, "other").is_none());
    }
}
