//! Reads a cubin: the entries with their parameters, and the symbols that the code needs from outside.
//!
//! The driver reads the same, so a launch must pass what the cubin says, whatever a source or its PTX claims. Never panics on a
//! damaged file. Format: ELF with NVIDIA's sections `.nv.info.ENTRY`, each a list of attributes.

use object::{Object, ObjectSection, ObjectSymbol, SymbolFlags};

/// The attribute with one parameter: index (4 bytes), ordinal (2), offset (2), and flags whose upper 14 bits are the size.
const PARAMETER: u8 = 0x17;
/// The attribute with the size of all parameters.
const PARAMETER_BYTES: u8 = 0x19;
/// How many lower bits of the flags are not the size.
const SIZE_SHIFT: u32 = 18;
/// The kind of attribute whose value follows, with its length.
const SIZED_VALUE: u8 = 4;
/// The greatest kind of attribute.
const LAST_KIND: u8 = 4;
/// The bit of a symbol that the host can launch.
const IS_ENTRY: u8 = 0x10;
/// The bit of a variable in managed memory.
const IS_MANAGED: u8 = 0x04;
/// The first type of symbols that are textures, surfaces or samplers.
const FIRST_TEXTURE: u8 = 10;
/// The last one.
const LAST_TEXTURE: u8 = 12;
/// Reserved for the toolchain: no source and no PTX can name such a symbol.
const RESERVED: &str = ".nv.";

/// A parameter of an entry in the argument memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CubinParameter {
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// An entry of a cubin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CubinEntry {
    /// The mangled name.
    pub(super) name: String,
    /// In their order. `None`: the description is incomplete or contradicts itself.
    pub(super) parameters: Option<Vec<CubinParameter>>,
}

/// What a cubin says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CubinCode {
    pub(super) entries: Vec<CubinEntry>,
    /// The symbols that the cubin needs and does not have.
    pub(super) missing: Vec<String>,
    /// Whether a variable is in managed memory.
    pub(super) has_managed: bool,
    /// Whether there is a texture, a surface or a sampler.
    pub(super) has_textures: bool,
}

impl CubinCode {
    /// Reads a cubin.
    ///
    /// # Errors
    /// If it is no ELF file.
    pub(super) fn read(image: &[u8]) -> Result<Self, object::Error> {
        let file = object::File::parse(image)?;
        let mut code = Self::default();
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            let SymbolFlags::Elf { st_info, st_other } = symbol.flags() else {
                continue;
            };
            if symbol.is_undefined() {
                if !name.is_empty() && !name.starts_with(RESERVED) {
                    code.missing.push(name.to_owned());
                }
                continue;
            }
            let kind = st_info & 0xf;
            let is_function = kind == object::elf::STT_FUNC;
            if is_function && st_other & IS_ENTRY != 0 {
                code.entries.push(CubinEntry {
                    name: name.to_owned(),
                    parameters: read_parameters(&file, name),
                });
            }
            code.has_managed |= kind == object::elf::STT_OBJECT && st_other & IS_MANAGED != 0;
            code.has_textures |= (FIRST_TEXTURE..=LAST_TEXTURE).contains(&kind);
        }
        Ok(code)
    }

    /// The parameters of an entry. `None`: there is no such entry, several, or its description cannot be read.
    pub(super) fn parameters(&self, name: &str) -> Option<&[CubinParameter]> {
        let mut found = self.entries.iter().filter(|entry| entry.name == name);
        let entry = found.next().filter(|_| found.next().is_none())?;
        entry.parameters.as_deref()
    }
}

/// The parameters of an entry, in their order.
fn read_parameters(file: &object::File<'_>, entry: &str) -> Option<Vec<CubinParameter>> {
    let name = format!(".nv.info.{entry}");
    let mut sections = file
        .sections()
        .filter(|section| section.name() == Ok(name.as_str()));
    let section = sections.next().filter(|_| sections.next().is_none())?;
    let mut found = Vec::new();
    let mut total = None;
    for attribute in attributes(section.data().ok()?) {
        match attribute? {
            Attribute {
                code: PARAMETER,
                value,
            } => found.push(read_parameter(value)?),
            Attribute {
                code: PARAMETER_BYTES,
                value,
            } => {
                total = Some(u32::from(u16::from_le_bytes(value.try_into().ok()?)));
            }
            _ => {}
        }
    }
    found.sort_by_key(|(ordinal, _)| *ordinal);
    // Each ordinal once, in the order of the offsets, without overlap.
    let mut end = 0;
    for (index, (ordinal, parameter)) in found.iter().enumerate() {
        if usize::from(*ordinal) != index || parameter.offset < end || parameter.bytes == 0 {
            return None;
        }
        end = parameter.offset.checked_add(parameter.bytes)?;
    }
    // Very large parameters are described in another form, which is not read. Then the end is not the total.
    let is_complete = end == total.unwrap_or(0);
    is_complete.then(|| found.into_iter().map(|(_, parameter)| parameter).collect())
}

/// The ordinal of a parameter, and its place.
fn read_parameter(value: &[u8]) -> Option<(u16, CubinParameter)> {
    let half = |at: usize| Some(u16::from_le_bytes(value.get(at..at + 2)?.try_into().ok()?));
    let flags = u32::from_le_bytes(value.get(8..12)?.try_into().ok()?);
    let parameter = CubinParameter {
        offset: u32::from(half(6)?),
        bytes: flags >> SIZE_SHIFT,
    };
    Some((half(4)?, parameter))
}

/// An attribute of `.nv.info`.
#[derive(Clone, Copy, Debug)]
struct Attribute<'a> {
    code: u8,
    value: &'a [u8],
}

/// The attributes of a section. It ends with `None` at an attribute that cannot be read.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Option<Attribute<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = read_attribute(rest);
        rest = read.map_or(&[], |(_, behind)| behind);
        Some(read.map(|(attribute, _)| attribute))
    })
}

/// The first attribute, and the bytes after it.
fn read_attribute(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let (head, behind) = bytes.split_at_checked(4)?;
    let (kind, code) = (head[0], head[1]);
    if kind == 0 || kind > LAST_KIND {
        return None;
    }
    if kind < SIZED_VALUE {
        let value = &head[2..];
        return Some((Attribute { code, value }, behind));
    }
    let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let (value, behind) = behind.split_at_checked(length)?;
    Some((Attribute { code, value }, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute with a parameter.
    fn parameter(ordinal: u16, offset: u16, bytes: u32) -> Vec<u8> {
        let mut all = vec![SIZED_VALUE, PARAMETER, 12, 0, 0, 0, 0, 0];
        all.extend(ordinal.to_le_bytes());
        all.extend(offset.to_le_bytes());
        all.extend((bytes << SIZE_SHIFT | 0x1f000).to_le_bytes());
        all
    }

    fn read(bytes: &[u8]) -> Vec<Option<(u8, usize)>> {
        let all = attributes(bytes).take(100);
        all.map(|attribute| attribute.map(|found| (found.code, found.value.len())))
            .collect()
    }

    #[test]
    fn attributes_are_read_and_damage_ends_them() {
        let mut bytes = parameter(0, 8, 4);
        bytes.extend([3, PARAMETER_BYTES, 12, 0]);
        assert_eq!(
            read(&bytes),
            [Some((PARAMETER, 12)), Some((PARAMETER_BYTES, 2))]
        );
        for end in 1..16 {
            assert_eq!(read(&bytes[..end]), [None], "{end}");
        }
        assert_eq!(read(&[9, 0, 0, 0]), [None]);
        assert_eq!(read(&[4, 0x17, 255, 255, 0]), [None]);
        let (ordinal, place) = read_parameter(&parameter(3, 48, 128)[4..]).unwrap();
        assert_eq!(
            (ordinal, place),
            (
                3,
                CubinParameter {
                    offset: 48,
                    bytes: 128
                }
            )
        );
        assert_eq!(read_parameter(&[0; 11]), None);
    }

    /// A section of a test file.
    struct Section {
        name: &'static str,
        kind: u32,
        /// The section that names or symbols belong to.
        link: u32,
        data: Vec<u8>,
    }

    /// A symbol table entry: name, info, other, section, value, size.
    fn symbol(name: u32, info: u8, other: u8, section: u16) -> Vec<u8> {
        let mut entry = name.to_le_bytes().to_vec();
        entry.extend([info, other]);
        entry.extend(section.to_le_bytes());
        entry.extend([0; 8]);
        entry.extend(16u64.to_le_bytes());
        entry
    }

    /// An ELF file of 64 bits for a GPU with these sections, the last of which names them.
    fn elf(sections: &[Section]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 190, 0, 1, 0, 0, 0]);
        file.resize(64, 0);
        let mut headers = vec![0; 64];
        let names = sections.last().unwrap();
        for section in sections {
            let named = names.data.windows(section.name.len() + 1);
            let name = named.clone().position(|window| {
                window.ends_with(&[0]) && window.starts_with(section.name.as_bytes())
            });
            headers.extend((name.unwrap() as u32).to_le_bytes());
            headers.extend(section.kind.to_le_bytes());
            headers.extend([0; 16]);
            headers.extend((file.len() as u64).to_le_bytes());
            headers.extend((section.data.len() as u64).to_le_bytes());
            headers.extend(section.link.to_le_bytes());
            headers.extend([1, 0, 0, 0]);
            headers.extend(8u64.to_le_bytes());
            headers.extend(if section.kind == 2 { 24u64 } else { 0 }.to_le_bytes());
            file.extend(&section.data);
            file.resize(file.len().next_multiple_of(8), 0);
        }
        let at = (file.len() as u64).to_le_bytes();
        file[40..48].copy_from_slice(&at);
        file[52..54].copy_from_slice(&64u16.to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        let count = sections.len() as u16 + 1;
        file[60..62].copy_from_slice(&count.to_le_bytes());
        file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
        file.extend(headers);
        file
    }

    /// `__global__ void k(const float* a, float* b, long long c, float d, bool e)` as NVRTC describes it, with a call of `malloc` and
    /// a variable in managed memory.
    fn five_parameters() -> Vec<u8> {
        let mut info = Vec::new();
        for (ordinal, (offset, bytes)) in (0..).zip([(0, 8), (8, 8), (16, 8), (24, 4), (28, 1)]) {
            info.extend(parameter(ordinal, offset, bytes));
        }
        info.extend([3, PARAMETER_BYTES, 29, 0]);
        let names = b"\0_Z1kPKfPfxfb\0malloc\0kept\0";
        let symbols = [
            symbol(0, 0, 0, 0),
            symbol(1, 0x12, IS_ENTRY, 3),
            symbol(14, 0x10, 0, 0),
            symbol(21, 0x11, IS_MANAGED, 4),
        ];
        let section = |name, kind, link, data: &[u8]| Section {
            name,
            kind,
            link,
            data: data.to_vec(),
        };
        elf(&[
            section(".strtab", 3, 0, names),
            section(".symtab", 2, 1, &symbols.concat()),
            section(".text._Z1kPKfPfxfb", 1, 0, &[0; 16]),
            section(".nv.global", 1, 0, &[0; 16]),
            section(".nv.info._Z1kPKfPfxfb", 0x7000_0000, 0, &info),
            section(
                ".shstrtab",
                3,
                0,
                b"\0.strtab\0.symtab\0.text._Z1kPKfPfxfb\0.nv.global\0.nv.info._Z1kPKfPfxfb\0.shstrtab\0",
            ),
        ])
    }

    #[test]
    fn entries_and_symbols_are_read() {
        let code = CubinCode::read(&five_parameters()).unwrap();
        let parameters = code.parameters("_Z1kPKfPfxfb").unwrap();
        let places: Vec<_> = parameters
            .iter()
            .map(|place| (place.offset, place.bytes))
            .collect();
        assert_eq!(places, [(0, 8), (8, 8), (16, 8), (24, 4), (28, 1)]);
        assert_eq!(code.missing, ["malloc"]);
        assert!(code.has_managed && !code.has_textures);
        assert_eq!(code.parameters("k"), None);
    }

    #[test]
    fn damaged_files_do_not_panic() {
        let whole = five_parameters();
        for end in 0..whole.len() {
            let _ = CubinCode::read(&whole[..end]);
        }
        let mut random = 1u64;
        for _ in 0..4000 {
            let mut damaged = whole.clone();
            for _ in 0..4 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (random >> 33) as usize % damaged.len();
                damaged[at] = (random >> 24) as u8;
            }
            if let Ok(code) = CubinCode::read(&damaged) {
                code.parameters("_Z1kPKfPfxfb");
            }
        }
    }

    #[test]
    fn other_files_are_no_cubins() {
        assert!(CubinCode::read(b"").is_err());
        assert!(CubinCode::read(b"\x7fELF\x02\x01\x01").is_err());
    }
}
