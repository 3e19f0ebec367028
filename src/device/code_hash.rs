//! The hash of what a compiled program does: its code and its data, without the names and the line numbers of the source.
//!
//! Sources that differ in comments, or in the names of variables and functions, have the same hash. Programs with the same hash do the
//! same; the reverse need not hold. Reads ELF files: an executable for the CPU, a cubin for a GPU.

use std::collections::HashSet;

use object::elf::{EM_CUDA, SHF_ALLOC, SHT_NOTE};
use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{Endianness, File, Object, ObjectSection, ObjectSymbol, SymbolFlags};

use super::program::Program;
use crate::base::Digest;

/// How the names of sections start that say where code comes from. They and their relocations change nothing that runs.
const DESCRIPTIONS: [&str; 5] = [
    ".debug",
    ".nv_debug",
    ".note",
    ".rela.debug",
    ".rela.nv_debug",
];
/// The sections with names.
const NAME_TABLES: [&str; 3] = [".shstrtab", ".strtab", ".symtab"];

/// The hash of a program. `None` if its file cannot be read.
pub fn code_hash(program: &Program) -> Option<Digest> {
    let image = std::fs::read(&program.image).ok()?;
    let entries = program.entries.iter().map(|entry| entry.name.as_str());
    hash_image(&image, &entries.collect::<Vec<_>>())
}

/// The hash of an ELF file. `entries`: the functions that a GPU launches, in their order.
fn hash_image(image: &[u8], entries: &[&str]) -> Option<Digest> {
    let file = ElfFile64::<Endianness>::parse(image).ok()?;
    let endian = file.endian();
    let mut parts = if file.elf_header().e_machine(endian) == EM_CUDA {
        cubin_parts(image, entries)?
    } else {
        executable_parts(&file)?
    };
    parts.insert(0, image.get(..20)?.to_vec());
    Some(Digest::of_parts(parts.iter().map(Vec::as_slice)))
}

/// Everything that is loaded, except notes: the linker's build id depends on names.
fn executable_parts(file: &ElfFile64<'_, Endianness>) -> Option<Vec<Vec<u8>>> {
    let endian = file.endian();
    let mut parts = Vec::new();
    for section in file.sections() {
        let header = section.elf_section_header();
        let is_loaded = header.sh_flags(endian) & u64::from(SHF_ALLOC) != 0;
        if !is_loaded || header.sh_type(endian) == SHT_NOTE {
            continue;
        }
        parts.push(section.name().ok()?.as_bytes().to_vec());
        parts.push(place(section.address(), section.size()));
        // Nothing for memory that starts as zeros.
        parts.push(section.data().ok()?.to_vec());
    }
    Some(parts)
}

/// The sections of a cubin with the names of functions cut off, its symbols without their names, and which function each launch runs.
fn cubin_parts(image: &[u8], entries: &[&str]) -> Option<Vec<Vec<u8>>> {
    let file = File::parse(image).ok()?;
    let names: HashSet<&str> = (file.symbols())
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| !name.is_empty())
        .collect();
    let mut parts = Vec::new();
    for section in file.sections() {
        let name = section.name().ok()?;
        let is_description = DESCRIPTIONS.iter().any(|start| name.starts_with(start));
        if is_description || NAME_TABLES.contains(&name) {
            continue;
        }
        parts.push(without_symbol(name, &names).as_bytes().to_vec());
        parts.push(place(section.index().0 as u64, section.size()));
        parts.push(section.data().ok()?.to_vec());
    }
    for symbol in file.symbols() {
        let SymbolFlags::Elf { st_info, st_other } = symbol.flags() else {
            return None;
        };
        let section = symbol.section_index().map_or(0, |index| index.0 as u64);
        parts.push(vec![st_info, st_other]);
        parts.push(place(section, symbol.address()));
        parts.push(symbol.size().to_le_bytes().to_vec());
        if symbol.is_undefined() {
            parts.push(symbol.name().ok()?.as_bytes().to_vec());
        }
    }
    for entry in entries {
        let mut found = file
            .symbols()
            .filter(|symbol| symbol.name() == Ok(entry) && !symbol.is_undefined());
        let section = found.next()?.section_index()?;
        parts.push((section.0 as u64).to_le_bytes().to_vec());
    }
    Some(parts)
}

/// A section's name without the symbol at its end: `.text` for `.text.rows`.
fn without_symbol<'n>(name: &'n str, symbols: &HashSet<&str>) -> &'n str {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    dots.find(|at| symbols.contains(&name[at + 1..]))
        .map_or(name, |at| &name[..at])
}

fn place(start: u64, size: u64) -> Vec<u8> {
    [start.to_le_bytes(), size.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_are_cut_off() {
        let symbols = HashSet::from(["_Z1kPf", "rows", "info.rows"]);
        for (name, cut) in [
            (".text._Z1kPf", ".text"),
            (".nv.info.rows", ".nv"),
            (".rela.text.rows", ".rela.text"),
            (".nv.constant3", ".nv.constant3"),
            (".text.other", ".text.other"),
        ] {
            assert_eq!(without_symbol(name, &symbols), cut);
        }
    }

    #[test]
    fn other_files_have_no_hash() {
        for image in [&b""[..], b"\x7fELF", b"a kernel"] {
            assert_eq!(hash_image(image, &[]), None);
        }
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for end in [64, 1000, own.len() / 2] {
            let _ = hash_image(&own[..end], &[]);
        }
    }
}
