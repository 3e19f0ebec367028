//! The device variables of a kernel's module, in which it could keep state between launches.
//!
//! They are found in the cubin's symbol table, compared after every launch, and restored, so that no launch sees what another one
//! left there. Other memory is handled elsewhere: `harness_kernels` overwrites shared memory, `clock` flushes the cache.

use std::ffi::CString;
use std::rc::Rc;

use cudarc::driver::sys::CUdeviceptr;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::gpu::{Gpu, call};
use super::loaded_module::LoadedModule;
use super::memory;

/// Sections of a cubin with variables that device code can write.
const WRITABLE_SECTIONS: [&str; 2] = [".nv.global", ".nv.global.init"];

/// Limit for the total size of a kernel's variables: all of them are compared after every sample.
pub(super) const MAX_VARIABLE_BYTES: u64 = 256 << 20;

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
    let is_theirs = |name: &str| WRITABLE_SECTIONS.contains(&name);
    symbol.kind() == SymbolKind::Data
        && symbol.size() > 0
        && section.is_some_and(|section| section.name().is_ok_and(is_theirs))
}

/// The variables of one module.
pub(super) struct ModuleVariables {
    gpu: Rc<Gpu>,
    variables: Vec<ModuleVariable>,
    /// Whether the driver does not reveal the address of some variable.
    has_hidden: bool,
}

struct ModuleVariable {
    name: String,
    address: CUdeviceptr,
    /// The contents before the first launch.
    image: Vec<u8>,
}

impl ModuleVariables {
    pub(super) fn find(gpu: &Rc<Gpu>, module: &LoadedModule, cubin: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(cubin)?;
        let mut variables = Vec::new();
        let mut hidden = false;
        for symbol in file.symbols() {
            if !is_writable(&file, &symbol) {
                continue;
            }
            let name = symbol.name().unwrap_or_default();
            let c_name = CString::new(name)?;
            let (mut address, mut bytes) = (0, 0);
            let located = call!(cuModuleGetGlobal_v2(
                &raw mut address,
                &raw mut bytes,
                module.handle,
                c_name.as_ptr()
            ));
            if located.is_err() {
                // For example a string literal: a kernel can write to it, and the judge cannot see that.
                hidden = true;
                continue;
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
            variables,
            has_hidden: hidden,
        })
    }

    pub(super) fn has_hidden(&self) -> bool {
        self.has_hidden
    }

    /// Restores all variables. Returns the name of the first variable that had changed.
    pub(super) fn restore(&self) -> anyhow::Result<Option<String>> {
        let mut changed = None;
        for variable in &self.variables {
            let mut current = vec![0u8; variable.image.len()];
            memory::copy_to_host(&self.gpu, variable.address, &mut current)?;
            if current != variable.image {
                changed.get_or_insert_with(|| variable.name.clone());
                memory::copy_to_device(&self.gpu, variable.address, &variable.image)?;
            }
        }
        Ok(changed)
    }
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
    use super::source_name;

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
