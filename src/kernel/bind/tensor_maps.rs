//! The tensor maps of a plan. The hardware checks neither sizes nor bounds, so every one is checked here.

use super::names::Names;
use super::target::{BindError, BindFault, LaunchTarget};
use crate::kernel::header::{Header, LocatedExpression, TensorMapHeader};
use crate::kernel::plan::{Argument, Buffer, Launch, TensorMap};

const MAX_DIMS: usize = 5;
/// The largest size of a dim, in elements.
const MAX_DIM: i64 = 1 << 32;
/// The largest stride, in bytes.
const MAX_STRIDE: i64 = 1 << 40;
/// The largest size of the box, in elements.
const MAX_TILE: i64 = 256;
const SWIZZLES: [u32; 4] = [0, 32, 64, 128];

/// The maps that the launches take, in the header's order. The arguments of the launches, places in the header, become places in the
/// result. A map that only other shapes need may have sizes that no map can have, such as a stride of an odd number of bytes.
pub(super) fn bind(
    header: &Header,
    target: &LaunchTarget<'_>,
    names: &Names<'_>,
    buffers: &[Buffer],
    launches: &mut [Launch],
) -> Result<Vec<TensorMap>, BindError> {
    let mut bound = Vec::new();
    for (place, (name, map)) in header.tensor_maps.iter().enumerate() {
        check_form(map).map_err(|error| named(name, error))?;
        let arguments = launches.iter_mut().flat_map(|launch| &mut launch.arguments);
        let uses: Vec<_> = arguments
            .filter(|argument| **argument == Argument::TensorMap(place))
            .collect();
        if uses.is_empty() {
            continue;
        }
        for argument in uses {
            *argument = Argument::TensorMap(bound.len());
        }
        let one = bind_map(name, map, target, names, buffers);
        bound.push(one.map_err(|error| named(name, error))?);
    }
    Ok(bound)
}

fn named(name: &str, error: BindError) -> BindError {
    BindError {
        message: format!("tensor map `{name}`: {}", error.message),
        ..error
    }
}

fn bind_map(
    name: &str,
    map: &TensorMapHeader,
    target: &LaunchTarget<'_>,
    names: &Names<'_>,
    buffers: &[Buffer],
) -> Result<TensorMap, BindError> {
    let refuse = |message| error(map, BindFault::LaunchError, message);
    let index = target
        .buffer_index(buffers, &map.of)
        .ok_or_else(|| refuse(format!("tensor `{}` has no buffer", map.of)))?;
    let buffer = &buffers[index];
    let sizes = |list: &[LocatedExpression], max: i64, what: &str| {
        let size = |located| {
            let size = names.evaluate(located)?;
            if !(1..=max).contains(&size) {
                return Err(refuse(format!("{what}: expected 1 to {max}, found {size}")));
            }
            Ok(size as u64)
        };
        list.iter().map(size).collect::<Result<Vec<u64>, _>>()
    };
    let dims = sizes(&map.dims, MAX_DIM, "a dim")?;
    let strides = sizes(&map.strides, MAX_STRIDE, "a stride")?;
    let tile = sizes(&map.tile, MAX_TILE, "a size of the box")?;
    // The last byte that the map can reach must be in the buffer.
    let row = dims.first().copied().unwrap_or(1) * buffer.dtype.bytes();
    let offsets = dims.iter().skip(1).zip(&strides);
    let reach = offsets
        .map(|(size, stride)| (size - 1).saturating_mul(*stride))
        .fold(row, u64::saturating_add);
    let bytes = buffer.bytes();
    if reach > bytes {
        let tensor = &map.of;
        return Err(refuse(format!(
            "it reaches {reach} bytes into `{tensor}`, which has {bytes}"
        )));
    }
    Ok(TensorMap {
        name: name.to_owned(),
        buffer: index,
        dims,
        strides,
        tile: tile.into_iter().map(|size| size as u32).collect(),
        swizzle: map.swizzle,
    })
}

/// Checks the lengths of the lists and the swizzle. The driver reads as many strides and sizes as there are dims, however long the
/// lists are.
fn check_form(map: &TensorMapHeader) -> Result<(), BindError> {
    let [dims, strides, tile] = [&map.dims, &map.strides, &map.tile].map(Vec::len);
    if dims == 0 || dims > MAX_DIMS || strides + 1 != dims || tile != dims {
        return Err(error(
            map,
            BindFault::Rejected,
            format!(
                "{dims} dims, {strides} strides and {tile} sizes of the box: expected 1 to {MAX_DIMS} dims, innermost first, a stride for each but the first, and a size of the box for each"
            ),
        ));
    }
    if !SWIZZLES.contains(&map.swizzle) {
        let found = map.swizzle;
        return Err(error(
            map,
            BindFault::Rejected,
            format!("`swizzle`: expected 0, 32, 64 or 128, found {found}"),
        ));
    }
    Ok(())
}

fn error(map: &TensorMapHeader, fault: BindFault, message: String) -> BindError {
    BindError {
        fault,
        line: map.line,
        message,
    }
}
