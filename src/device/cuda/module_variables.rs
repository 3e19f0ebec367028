//! What a kernel could remember between launches: the variables of its module, on the device.
//!
//! They are found in the cubin's symbol table, looked at after every launch, and put back: what one launch leaves there the next
//! never sees. Memory that is no variable's (shared memory, the cache) is made useless elsewhere.

use std::ffi::CString;
use std::rc::Rc;

use cudarc::driver::sys::CUdeviceptr;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::card::{Gpu, call};
use super::harness_kernels::LoadedModule;
use super::memory;

/// Sections of a cubin whose variables device code can write.
const WRITABLE_SECTIONS: [&str; 2] = [".nv.global", ".nv.global.init"];

/// The most that a kernel's variables may take: all of them are looked at after every sample.
pub(super) const MAX_VARIABLE_BYTES: u64 = 256 << 20;

/// How much memory the variables of a module take, or will take once it is loaded.
pub(super) fn variable_bytes(cubin: &[u8]) -> anyhow::Result<u64> {
    let file = object::File::parse(cubin)?;
    let writable = file.symbols().filter(|symbol| is_writable(&file, symbol));
    Ok(writable.fold(0, |sum, symbol| symbol.size().saturating_add(sum)))
}

/// Whether it is a variable that device code can write.
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
    card: Rc<Gpu>,
    variables: Vec<Variable>,
    /// Whether there is one whose place the driver does not tell.
    has_hidden: bool,
}

struct Variable {
    name: String,
    address: CUdeviceptr,
    /// What it holds before any launch.
    image: Vec<u8>,
}

impl ModuleVariables {
    pub(super) fn find(
        card: &Rc<Gpu>,
        module: &LoadedModule,
        cubin: &[u8],
    ) -> anyhow::Result<Self> {
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
            let found = call!(cuModuleGetGlobal_v2(
                &raw mut address,
                &raw mut bytes,
                module.handle,
                c_name.as_ptr()
            ));
            if found.is_err() {
                // Such as the letters of a string, which a kernel can write like any memory: nobody would see it.
                hidden = true;
                continue;
            }
            let mut image = vec![0u8; bytes];
            memory::copy_to_host(card, address, &mut image)?;
            variables.push(Variable {
                name: source_name(name),
                address,
                image,
            });
        }
        Ok(Self {
            card: Rc::clone(card),
            variables,
            has_hidden: hidden,
        })
    }

    pub(super) fn has_hidden(&self) -> bool {
        self.has_hidden
    }

    /// Puts all back to what it was at first. The first variable that was changed.
    pub(super) fn restore(&self) -> anyhow::Result<Option<String>> {
        let mut changed = None;
        for variable in &self.variables {
            let mut found = vec![0u8; variable.image.len()];
            memory::copy_to_host(&self.card, variable.address, &mut found)?;
            if found != variable.image {
                changed.get_or_insert_with(|| variable.name.clone());
                memory::copy_to_device(&self.card, variable.address, &variable.image)?;
            }
        }
        Ok(changed)
    }
}

/// The last identifier of a mangled name: what the source calls the variable.
fn source_name(mangled: &str) -> String {
    let Some(rest) = mangled.strip_prefix("_Z") else {
        return mangled.to_owned();
    };
    let mut last = None;
    let mut at = 0;
    while at < rest.len() {
        let digits = rest[at..].bytes().take_while(u8::is_ascii_digit).count();
        // `Li3E` is a number among a template's arguments, no length.
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
