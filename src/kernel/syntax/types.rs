//! Sizes of types that are built into the language or into CUDA.
//!
//! Knows a type by its name only: no `typedef` or `using` is followed.

use tree_sitter::Node;

use super::Syntax;

/// The size in bytes of the type that a declaration or a type descriptor starts with, if it is built in.
pub(super) fn declared_type_bytes(syntax: &Syntax<'_>, node: Node<'_>) -> Option<u32> {
    builtin_type_bytes(syntax.text(node.child_by_field_name("type")?))
}

/// The size in bytes of a type that is built into the language or into CUDA, by its name without qualifiers.
pub(crate) fn builtin_type_bytes(name: &str) -> Option<u32> {
    const SCALARS: [(&str, u32); 12] = [
        ("longlong", 8),
        ("ulonglong", 8),
        ("double", 8),
        ("float", 4),
        ("ushort", 2),
        ("short", 2),
        ("uchar", 1),
        ("char", 1),
        ("ulong", 8),
        ("long", 8),
        ("uint", 4),
        ("int", 4),
    ];
    Some(match name {
        "bool" | "char" | "signed char" | "unsigned char" | "int8_t" | "uint8_t" => 1,
        "short" | "unsigned short" | "int16_t" | "uint16_t" | "__half" | "half"
        | "__nv_bfloat16" | "nv_bfloat16" => 2,
        "int" | "unsigned" | "unsigned int" | "float" | "int32_t" | "uint32_t" | "__half2"
        | "half2" | "__nv_bfloat162" | "nv_bfloat162" => 4,
        "long" | "unsigned long" | "long long" | "unsigned long long" | "double" | "int64_t"
        | "uint64_t" | "size_t" => 8,
        _ => {
            // `float4`, `uint2`, `longlong2`, …
            let lanes = name
                .chars()
                .last()?
                .to_digit(10)
                .filter(|lanes| (1..=4).contains(lanes))?;
            let scalar = &name[..name.len() - 1];
            SCALARS.iter().find(|(other, _)| *other == scalar)?.1 * lanes
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_builtin_types_are_known() {
        let sizes = [
            "float",
            "float2",
            "uint4",
            "longlong2",
            "__nv_bfloat162",
            "unsigned long long",
            "uchar4",
            "Mine",
            "float9",
            "é",
        ]
        .map(builtin_type_bytes);
        assert_eq!(
            sizes,
            [
                Some(4),
                Some(8),
                Some(16),
                Some(16),
                Some(4),
                Some(8),
                Some(4),
                None,
                None,
                None
            ]
        );
    }
}
