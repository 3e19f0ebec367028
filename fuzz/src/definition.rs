//! Checks definitions: the order of their keys, and the sizes of their tensors.

use indexmap::IndexMap;
use kforge::task::Definition;
use serde_json::Value;

pub fn definition(input: &[u8]) {
    let text = super::lossy_text(input);
    let definition = match Definition::parse(&text, "definition.json") {
        Ok(definition) => definition,
        Err(failure) => {
            super::assert_locations(&failure.message, "definition.json", &text);
            return;
        }
    };
    // In keys that are ignored, the reader accepts more than JSON allows.
    let plain = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let Ok(json) = serde_json::from_str::<Value>(plain) else {
        return;
    };
    let order = |key: &str| -> Vec<String> {
        json[key]
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    assert!(definition.axes.keys().eq(&order("axes")));
    assert!(definition.inputs.keys().eq(&order("inputs")));
    assert!(definition.outputs.keys().eq(&order("outputs")));
    assert!(definition.constants().all(|(_, value)| value >= 1));
    for size in [1, 7, i64::from(i32::MAX), i64::MAX] {
        let variables: IndexMap<_, _> = definition
            .variables()
            .map(|name| (name.to_owned(), size))
            .collect();
        let binding = match definition.bind(&variables) {
            Ok(binding) => binding,
            // The expression of an axis may have no value for these sizes.
            Err(failure) => {
                let mut axes = definition.axes.values();
                assert!(axes.any(|axis| axis.size.is_some()), "{failure}");
                continue;
            }
        };
        assert!(binding.axes.keys().eq(definition.axes.keys()));
        for tensor in definition
            .inputs
            .values()
            .chain(definition.outputs.values())
        {
            let Ok(shape) = binding.shape(tensor) else {
                continue;
            };
            assert_eq!(shape.len(), tensor.shape.iter().flatten().count());
            let bytes = shape
                .iter()
                .try_fold(tensor.dtype.bytes(), |bytes, size| bytes.checked_mul(*size));
            assert!(bytes.is_some_and(|bytes| i64::try_from(bytes).is_ok()));
        }
        for wrong in [0, -1, i64::MIN] {
            let mut variables = variables.clone();
            if let Some((_, size)) = variables.get_index_mut(0) {
                *size = wrong;
                assert!(definition.bind(&variables).is_err());
            }
        }
    }
}
