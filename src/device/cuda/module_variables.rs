//! The memory of a kernel's module in which it could keep state between launches: variables, constants, string literals, and what
//! lies between them.
//!
//! Variables are found in the cubin's symbol table, compared after every sample, and restored. The pages that contain them are hashed
//! before and after every sample. If the module prints or has a stack, the driver writes in these pages too; then only the slots of the
//! variables are hashed. Other memory is not handled here: `harness_kernels` overwrites shared and local memory, `clock` flushes the
//! cache.

use std::ffi::CString;
use std::rc::Rc;

use anyhow::Context;
use cudarc::driver::sys::CUdeviceptr;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::gpu::{Gpu, call};
use super::harness_kernels::HarnessKernels;
use super::judge_memory::{JudgeBuffer, JudgeMemory};
use super::loaded_module::LoadedModule;
use super::memory::{self, Access};
use crate::device::refusal::{DeviceError, Refusal};
use crate::verdict::Status;

/// Sections of a cubin with variables that device code can write. Constants can be written through a generic address.
const WRITABLE_SECTIONS: [&str; 3] = [".nv.global", ".nv.global.init", ".nv.constant3"];

/// Limit for the total size of a kernel's variables: all of them are compared after every sample.
pub(super) const MAX_VARIABLE_BYTES: u64 = 256 << 20;

/// The driver maps a module's memory in pages of this size.
const GPU_PAGE_BYTES: u64 = 2 << 20;
/// The driver places each variable at a multiple of this.
const SLOT_BYTES: u64 = 256;
/// Maximum number of ranges that are hashed. Further variables are compared like all others, but not what lies around them.
const MAX_VARIABLE_RANGES: usize = 64;

/// What findings call a change that is in none of the variables.
const UNNAMED: &str = "memory between the variables of the module";

/// Total size of the variables in a cubin.
pub(super) fn variable_bytes(cubin: &[u8]) -> anyhow::Result<u64> {
    let file = object::File::parse(cubin)?;
    let writable = file.symbols().filter(|symbol| is_writable(&file, symbol));
    Ok(writable.fold(0, |sum, symbol| symbol.size().saturating_add(sum)))
}

/// Whether a symbol is a variable that device code can write.
fn is_writable(file: &object::File<'_>, symbol: &object::Symbol<'_, '_>) -> bool {
    let section = symbol.section_index();
    let section = section.and_then(|index| file.section_by_index(index).ok());
    let is_writable_section = |name: &str| WRITABLE_SECTIONS.contains(&name);
    symbol.kind() == SymbolKind::Data
        && symbol.size() > 0
        && section.is_some_and(|section| section.name().is_ok_and(is_writable_section))
}

/// Whether the module prints. The driver then keeps what is printed in the same pages as the variables.
fn prints(file: &object::File<'_>) -> bool {
    let mut symbols = file.symbols();
    symbols.any(|symbol| symbol.is_undefined() && symbol.name() == Ok("vprintf"))
}

/// The variables of one module, and the memory around them.
pub(super) struct ModuleVariables {
    gpu: Rc<Gpu>,
    judge: Rc<JudgeMemory>,
    variables: Vec<ModuleVariable>,
    surroundings: Option<HashedRanges>,
    prints: bool,
}

struct ModuleVariable {
    name: String,
    address: CUdeviceptr,
    /// The contents before the first sample.
    image: Vec<u8>,
}

/// Memory whose hashes must not change in a sample.
struct HashedRanges {
    /// Start and length of each range, in bytes.
    table: JudgeBuffer,
    count: u32,
    before: JudgeBuffer,
    after: JudgeBuffer,
}

impl ModuleVariables {
    /// Finds the variables of a loaded module. `cubin`: its image.
    ///
    /// # Errors
    /// A refusal if the driver does not know where a variable is.
    pub(super) fn find(
        judge: &Rc<JudgeMemory>,
        module: &LoadedModule,
        cubin: &[u8],
    ) -> Result<Self, DeviceError> {
        let file = object::File::parse(cubin).map_err(anyhow::Error::from)?;
        let gpu = judge.gpu();
        let mut variables = Vec::new();
        for symbol in file.symbols() {
            if !is_writable(&file, &symbol) {
                continue;
            }
            let name = symbol.name().unwrap_or_default();
            let c_name = CString::new(name).map_err(anyhow::Error::from)?;
            let (mut address, mut bytes) = (0, 0);
            let located = call!(cuModuleGetGlobal_v2(
                &raw mut address,
                &raw mut bytes,
                module.handle,
                c_name.as_ptr()
            ));
            if located.is_err() {
                let name = source_name(name);
                let reason = format!(
                    "the driver does not say where the variable `{name}` is, so it cannot be compared"
                );
                return Err(Refusal::new(Status::Rejected, reason).into());
            }
            let mut image = vec![0u8; bytes];
            memory::copy_to_host(gpu, address, &mut image)?;
            variables.push(ModuleVariable {
                name: source_name(name),
                address,
                image,
            });
        }
        Ok(Self {
            gpu: Rc::clone(gpu),
            judge: Rc::clone(judge),
            surroundings: None,
            prints: prints(&file),
            variables,
        })
    }

    /// Compares what lies around the variables too: the rest of their pages, or only of their slots if the module prints or its kernels
    /// have a stack, because then the driver writes in these pages.
    pub(super) fn with_surroundings(self, has_stack: bool) -> anyhow::Result<Self> {
        let unit = if self.prints || has_stack {
            SLOT_BYTES
        } else {
            GPU_PAGE_BYTES
        };
        Ok(Self {
            surroundings: HashedRanges::around(&self.judge, &self.variables, unit)?,
            ..self
        })
    }

    /// Queues hashing the memory around the variables, before a sample.
    pub(super) fn hash_before(&self, harness: &HarnessKernels) -> anyhow::Result<()> {
        match &self.surroundings {
            Some(ranges) => harness.hash_ranges(&ranges.table, ranges.count, &ranges.before),
            None => Ok(()),
        }
    }

    /// Restores all variables. Returns the name of the first variable that the sample has changed, or a name for the memory between
    /// them.
    pub(super) fn restore(&self, harness: &HarnessKernels) -> anyhow::Result<Option<String>> {
        let surroundings_changed = self.surroundings_changed(harness)?;
        let mut changed = None;
        for variable in &self.variables {
            let mut current = vec![0u8; variable.image.len()];
            memory::copy_to_host(&self.gpu, variable.address, &mut current)?;
            if current != variable.image {
                changed.get_or_insert_with(|| format!("`{}`", variable.name));
                memory::copy_to_device(&self.gpu, variable.address, &variable.image)?;
            }
        }
        Ok(changed.or_else(|| surroundings_changed.then(|| UNNAMED.to_owned())))
    }

    fn surroundings_changed(&self, harness: &HarnessKernels) -> anyhow::Result<bool> {
        let Some(ranges) = &self.surroundings else {
            return Ok(false);
        };
        harness.hash_ranges(&ranges.table, ranges.count, &ranges.after)?;
        self.judge.set_access(Access::Writable)?;
        let hashes = || vec![0u64; ranges.count as usize];
        let (mut before, mut after) = (hashes(), hashes());
        memory::copy_to_host(&self.gpu, ranges.before.address(), &mut before)?;
        memory::copy_to_host(&self.gpu, ranges.after.address(), &mut after)?;
        Ok(before != after)
    }
}

impl HashedRanges {
    /// The memory around these variables, in whole units; `None` if there are none.
    fn around(
        judge: &Rc<JudgeMemory>,
        variables: &[ModuleVariable],
        unit: u64,
    ) -> anyhow::Result<Option<Self>> {
        let ranges = ranges_around(
            variables
                .iter()
                .map(|variable| (variable.address, variable.image.len() as u64)),
            unit,
        );
        if ranges.is_empty() {
            return Ok(None);
        }
        let table: Vec<u64> = (ranges.iter())
            .flat_map(|(start, end)| [*start, end - start])
            .collect();
        Ok(Some(Self {
            table: judge
                .allocate_with(&table)
                .context("failed to list the variables of a module")?,
            count: ranges.len() as u32,
            before: judge.allocate(ranges.len() * 8)?,
            after: judge.allocate(ranges.len() * 8)?,
        }))
    }
}

/// The ranges (start, end) that cover these variables (start, length) in whole units, without overlap.
fn ranges_around(variables: impl Iterator<Item = (u64, u64)>, unit: u64) -> Vec<(u64, u64)> {
    let mut covered: Vec<_> = variables
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(start, bytes)| {
            let end = (start + bytes).next_multiple_of(unit);
            (start / unit * unit, end)
        })
        .collect();
    covered.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (start, end) in covered {
        match ranges.last_mut() {
            Some((_, last)) if *last >= start => *last = end.max(*last),
            _ => ranges.push((start, end)),
        }
    }
    ranges.truncate(MAX_VARIABLE_RANGES);
    ranges
}

/// The variable's name in the source: the last identifier of its mangled name.
fn source_name(mangled: &str) -> String {
    let Some(rest) = mangled.strip_prefix("_Z") else {
        return mangled.to_owned();
    };
    let mut last = None;
    let mut at = 0;
    while at < rest.len() {
        let digits = rest[at..].bytes().take_while(u8::is_ascii_digit).count();
        // In `Li3E` the number is a template argument, not a length.
        let before = &rest.as_bytes()[..at];
        let is_literal = matches!(before, [.., b'L', kind] if kind.is_ascii_lowercase());
        let length = rest[at..at + digits].parse::<usize>().ok();
        let length = length.filter(|_| !is_literal);
        let name = length.and_then(|length| rest.get(at + digits..at + digits + length));
        match name.filter(|name| !name.is_empty()) {
            Some(name) => {
                last = Some(name);
                at += digits + name.len();
            }
            None => at += digits.max(1),
        }
        while !rest.is_char_boundary(at) {
            at += 1;
        }
    }
    last.unwrap_or(mangled).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{ranges_around, source_name};

    #[test]
    fn ranges_cover_variables_in_whole_units() {
        let variables = [(1000, 24), (256, 8), (0, 0), (5000, 1), (700, 400)];
        assert_eq!(
            ranges_around(variables.into_iter(), 256),
            [(256, 1280), (4864, 5120)]
        );
        assert_eq!(ranges_around([(10, 0)].into_iter(), 256), []);
    }

    #[test]
    fn mangled_name_yields_the_variable_name() {
        for (mangled, name) in [
            ("kept", "kept"),
            ("_ZZ1kE7counter", "counter"),
            ("_ZN1a6memberILi3EEE", "member"),
            ("_ZN12_GLOBAL__N_15cacheE", "cache"),
            ("_Z", "_Z"),
            ("_Z99999999999999999999999", "_Z99999999999999999999999"),
        ] {
            assert_eq!(source_name(mangled), name, "{mangled}");
        }
    }
}
