//! Tests of headers: what they may contain, what is refused, and the launch plans that follow.

mod forms;

use indexmap::IndexMap;

use super::plan::{Argument, ArgumentType, BufferRole, LaunchPlan, TensorMap};
use super::*;
use crate::task::{DType, TaskFiles};

const LIMITS: DeviceLimits = DeviceLimits {
    sm_count: 2,
    max_shared_bytes: 1000,
};

/// The launch plan of a kernel for one number of rows, with the values that apply without a variant.
fn plan_for_rows(kernel: &Kernel, rows: i64) -> Result<LaunchPlan, BindError> {
    let task = task_files().load().unwrap();
    let binding = task
        .definition
        .bind(&IndexMap::from([("rows".to_owned(), rows)]))
        .unwrap();
    let target = LaunchTarget {
        task: &task,
        binding: &binding,
        scalars: &Scalars::from([("factor".to_owned(), 2.5)]),
        limits: &LIMITS,
        is_oracle: false,
    };
    kernel.launch_plan(&target, &kernel.tunable_values(None))
}

fn task_files() -> TaskFiles {
    let definition = r#"{"name": "scale", "op_type": "test", "axes": {"rows": {"type": "var"}, "columns": {"type": "const", "value": 8}},
        "inputs": {"x": {"shape": ["rows", "columns"], "dtype": "bfloat16"}, "factor": {"shape": null, "dtype": "float32"}},
        "outputs": {"y": {"shape": ["rows", "columns"], "dtype": "float32"}}, "reference": "", "novelty": 1}"#;
    let workloads = r#"{"definition": "scale", "workload": {"uuid": "r4", "axes": {"rows": 4}, "inputs": {"factor": {"type": "scalar", "value": 2.5}}}}"#;
    let settings = "
schema: 1
definition: definition.json
workloads: workloads.jsonl
oracle: oracle.cu
baselines: {naive: {kernel: naive.cu}}
start: [naive.cu]
tolerance: {y: {rtol: 1.0e-3, atol_rms: 1.0e-3}}
hidden: {rows: [1, 9]}
bytes: rows * columns * 6
flops: rows * columns
profiles:
  quick: {workloads: [r4], hidden_shapes: 1, rounds: 1, seconds: 0.1, precision: 0.05}
  full: {workloads: all, rounds: 1, seconds: 0.1, precision: 0.05}
";
    let files = [
        ("definition.json", definition),
        ("workloads.jsonl", workloads),
        ("task.yaml", settings),
        ("oracle.cu", ""),
    ];
    TaskFiles {
        name: "scale".to_owned(),
        origin: "tasks/scale".to_owned(),
        files: files
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
        kernels: [("naive.cu".to_owned(), String::new())].into(),
        baseline: None,
        tensors: Default::default(),
        place: None,
        kernels_folder: Default::default(),
        baseline_tables: Vec::new(),
    }
}

fn parse(yaml: &str) -> Result<Kernel, HeaderError> {
    let task = task_files().load().unwrap();
    Kernel::parse(
        &format!("/* kforge\n{yaml}\n*/\n__global__ void scale() {{}}\n"),
        &task.definition,
    )
}

const VALID_HEADER: &str = "launch:
  - kernel: scale<ROWS>
    grid: ceil_div(rows, ROWS), 2
    block: WIDTH
    shared: 4 * ROWS
    args: x, factor, y, rows, i64(rows * columns), partial
tunables:
  ROWS: [4, 1, 2]
  WIDTH: [32, 64]
variants:
  - {when: rows <= 2, ROWS: 1}
scratch:
  partial: {dtype: float32, shape: \"rows, 2\", zero: true}";

fn header_error(yaml: &str) -> String {
    parse(yaml).unwrap_err().to_string()
}

#[test]
fn launch_identity_counts_what_the_header_computes_with() {
    let header = VALID_HEADER.replace("  WIDTH: [32, 64]", "  WIDTH: [32, 64]\n  UNROLL: [1, 2]");
    let identity = |old: &str, new: &str| {
        let changed = header.replacen(old, new, 1);
        assert!(old == new || changed != header, "{old}");
        parse(&changed).unwrap().launch_identity().unwrap()
    };
    let expected = identity("", "");
    for (old, new) in [
        // Only the code may use it.
        ("UNROLL: [1, 2]", "UNROLL: [2, 1]"),
        ("UNROLL: [1, 2]", "UNROLL: [1, 2, 4]"),
        ("kernel: scale<ROWS>", "kernel: other<ROWS>"),
        ("variants:", "constraints: UNROLL <= 2\nvariants:"),
        ("ROWS: [4, 1, 2]", "ROWS: [4, 2, 1]"),
        (
            "    block: WIDTH\n    shared: 4 * ROWS\n",
            "    shared: 4 * ROWS\n    block: WIDTH\n",
        ),
    ] {
        assert_eq!(identity(old, new), expected, "{new}");
    }
    for (old, new) in [
        ("ROWS: [4, 1, 2]", "ROWS: [2, 1, 4]"),
        ("WIDTH: [32, 64]", "WIDTH: [64, 32]"),
        ("rows <= 2, ROWS: 1", "rows <= 2, ROWS: 2"),
        ("rows <= 2", "rows <= 3"),
        ("4 * ROWS", "8 * ROWS"),
        ("zero: true", "zero: false"),
        ("rows, i64", "rows + 1, i64"),
    ] {
        assert_ne!(identity(old, new), expected, "{new}");
    }
}

#[test]
fn a_constraint_that_does_not_hold_is_shown_with_its_values() {
    let header = |constraints: &str| {
        let with = format!("constraints:{constraints}\nvariants:");
        VALID_HEADER.replace("variants:", &with)
    };
    let check = |constraints: &str, rows: i64| {
        let task = task_files().load().unwrap();
        let kernel = parse(&header(constraints)).unwrap();
        let axes = IndexMap::from([("rows".to_owned(), rows)]);
        let binding = task.definition.bind(&axes).unwrap();
        let variant = kernel.variant_for(&binding, &LIMITS).unwrap();
        let values = kernel.tunable_values(variant);
        let checked = kernel.check_constraints(&binding, &values, &LIMITS);
        checked.map_err(|error| error.to_string())
    };
    assert_eq!(
        check(" rows % ROWS == 0, WIDTH <= max_shared_bytes", 8),
        Ok(())
    );
    assert_eq!(
        check(" [WIDTH > 1, rows % ROWS == 0]", 6),
        Err(
            "line 11: constraint `rows % ROWS == 0` does not hold: rows is 6, ROWS is 4".to_owned()
        )
    );
    // A variant sets ROWS to 1.
    assert_eq!(check(" rows % ROWS == 0", 1), Ok(()));
    assert_eq!(
        check("\n  - WIDTH > 1\n  - 8 // (rows - 3) > 0", 3),
        Err("line 13: expression `8 // (rows - 3) > 0`: division by zero".to_owned())
    );
    assert_eq!(
        parse(&header(" ROWS > 1, ROW < 4"))
            .unwrap_err()
            .to_string(),
        "line 11: expression `ROW < 4`: unknown name `ROW` (did you mean `rows`?)"
    );
    assert_eq!(
        parse(&header(" {ROWS: 4}")).unwrap_err().to_string(),
        "line 11: `constraints`: expected a list, found keys with values (write it as `constraints: a, b`)"
    );
}

#[test]
fn a_condition_with_commas_needs_no_quotes() {
    let variants_of = |condition: &str| {
        let header = VALID_HEADER.replace("rows <= 2,", &format!("{condition},"));
        parse(&header).map(|kernel| kernel.header.variants)
    };
    let plain = variants_of("min(rows, max(columns, 8)) <= ceil_div(rows, 2)").unwrap();
    let quoted = variants_of("\"min(rows, max(columns, 8)) <= ceil_div(rows, 2)\"").unwrap();
    assert_eq!(plain, quoted);
    assert_eq!(plain[0].values["ROWS"], 1);
    // Nothing is left over for a condition that never closes.
    let error = variants_of("min(rows, 8 <= 2").unwrap_err().to_string();
    assert!(error.contains("expression `min(rows, 8 <= 2`"), "{error}");
}

#[test]
fn binding_evaluates_every_expression_of_a_header() {
    let task = task_files().load().unwrap();
    let kernel = parse(VALID_HEADER).unwrap();
    let rows = |rows: i64| {
        task.definition
            .bind(&IndexMap::from([("rows".to_owned(), rows)]))
            .unwrap()
    };
    assert_eq!(kernel.variant_for(&rows(2), &LIMITS), Ok(Some(0)));
    assert_eq!(kernel.tunable_values(Some(0))["ROWS"], 1);
    assert_eq!(kernel.variant_for(&rows(3), &LIMITS), Ok(None));
    let plan = plan_for_rows(&kernel, 9).unwrap();
    let launch = &plan.launches[0];
    assert_eq!(
        (launch.grid, launch.block, launch.shared),
        ([3, 2, 1], [32, 1, 1], 16)
    );
    let expected = [
        Argument::Buffer(0),
        Argument::Scalar(DType::Float32, 2.5),
        Argument::Buffer(1),
        Argument::Integer(9),
        Argument::I64(72),
        Argument::Buffer(2),
    ];
    assert_eq!(launch.arguments, expected);
    assert_eq!(plan.buffers[2].role, BufferRole::Scratch { zero: true });
    assert_eq!(
        (plan.buffers[2].elements(), plan.outputs.as_slice()),
        (18, [1].as_slice())
    );
    let unit = kernel.translation_unit(&task, &kernel.tunable_values(None), true);
    assert_eq!(unit.constants, [("COLUMNS".to_owned(), 8)]);
    assert_eq!(
        unit.macros,
        [("ROWS".to_owned(), 4), ("WIDTH".to_owned(), 32)]
    );
    assert_eq!(
        unit.entry_points[0].arguments[2],
        ArgumentType::Pointer(DType::Float64)
    );
}

#[test]
fn with_point_changes_only_the_tunable_lists() {
    let kernel = parse(VALID_HEADER).unwrap();
    let point = IndexMap::from([("ROWS".to_owned(), 2), ("WIDTH".to_owned(), 64)]);
    let moved = with_point(&kernel, &point).unwrap();
    assert_eq!(
        moved,
        kernel
            .text
            .replace("[4, 1, 2]", "[2, 1, 4]")
            .replace("[32, 64]", "[64, 32]")
    );
    let task = task_files().load().unwrap();
    let moved = Kernel::parse(&moved, &task.definition).unwrap();
    assert_eq!(moved.point(), point);
    assert_eq!(
        (moved.family(), moved.space()),
        (kernel.family(), kernel.space())
    );
    assert_ne!(moved.text, kernel.text);
    assert_eq!(
        with_point(&kernel, &IndexMap::from([("ROWS".to_owned(), 3)])),
        None
    );
}

#[test]
fn header_errors_name_the_line_and_suggest_a_name() {
    for (from, to, message) in [
        (
            "ceil_div(rows, ROWS), 2",
            "rows ** 2",
            "line 4: expression `rows ** 2`, character 7: expected a number, a name or `(`, found `*`",
        ),
        (
            "block: WIDTH",
            "block: WIDHT",
            "line 5: expression `WIDHT`: unknown name `WIDHT` (did you mean `WIDTH`?)",
        ),
        (
            "args: x, factor",
            "args: xx, factor",
            "line 7: unknown name `xx` (did you mean `x`?)",
        ),
        (
            "shared:",
            "shard:",
            "line 6: unknown key `shard` (did you mean `shared`?)",
        ),
        (
            "ROWS: [4, 1, 2]",
            "ROWS: [4, x]",
            "line 9: tunable `ROWS`: expected whole numbers, such as `ROWS: [4, 2, 8]`, found `x`",
        ),
        (
            "  WIDTH: [",
            "  ab: [",
            "line 10: tunable `ab`: expected a name with at least three capital letters, such as `ROWS`",
        ),
        (
            "when: rows <= 2",
            "rows: 2",
            "line 12: a variant needs a condition, such as `when: batch_size <= 4`",
        ),
        (
            "i64(rows * columns)",
            "y + 4",
            "line 7: argument `y + 4`: the tensor `y` can only be passed whole (pass its name, and compute the offset in the kernel)",
        ),
        (
            "dtype: float32",
            "dtype: float33",
            "line 14: unknown value `float33` (did you mean `float32`?)",
        ),
    ] {
        assert_eq!(header_error(&VALID_HEADER.replace(from, to)), message);
    }
    assert!(header_error(&VALID_HEADER.replace("    block: WIDTH\n", "")).contains("`block`"));
}

#[test]
fn texts_without_a_header_are_refused() {
    let task = task_files().load().unwrap();
    for text in [
        "",
        "__global__ void f() {}",
        "/* kforge",
        "/* kforge */",
        "// kforge\n",
        "/* kforge\n*/",
        "/* kforge\n- 1\n*/",
        "/*",
    ] {
        assert!(Kernel::parse(text, &task.definition).is_err(), "{text:?}");
    }
}

#[test]
fn launch_limits_are_checked_when_binding() {
    let bind = |from: &str, to: &str| {
        let kernel = parse(&VALID_HEADER.replace(from, to)).unwrap();
        plan_for_rows(&kernel, 4).unwrap_err()
    };
    for (from, to, fault, expected) in [
        (
            "block: WIDTH",
            "block: WIDTH, 64",
            BindFault::LaunchError,
            "2048 threads",
        ),
        (
            "block: WIDTH",
            "block: 0",
            BindFault::LaunchError,
            "expected 1 to 1024, found 0",
        ),
        (
            "shared: 4 * ROWS",
            "shared: 4000",
            BindFault::LaunchError,
            "0 to 1000 bytes",
        ),
        (
            "args: x, factor, y, rows",
            "args: x, factor, y, i32(rows * 9999999999)",
            BindFault::LaunchError,
            "does not fit i32",
        ),
        (
            "grid: ceil_div(rows, ROWS), 2",
            "grid: rows // (rows - 4)",
            BindFault::Rejected,
            "division by zero",
        ),
        (
            "shape: \"rows, 2\"",
            "shape: \"rows, 0\"",
            BindFault::Rejected,
            "expected at least 1",
        ),
        (
            "shape: \"rows, 2\"",
            "shape: \"rows, 99999999999, 999999999\"",
            BindFault::LimitExceeded,
            "GiB",
        ),
    ] {
        let error = bind(from, to);
        assert_eq!(error.fault, fault, "{to}");
        assert!(error.message.contains(expected), "{to}: {error}");
    }
}

const TENSOR_MAP_HEADER: &str = "launch:
  - kernel: scale
    grid: rows
    block: 32
    args: x_map, factor, y
tensor_maps:
  x_map: {of: x, dims: \"columns, rows\", strides: \"columns * 2\", box: \"columns, min(rows, 4)\", swizzle: 32}";

fn plan_with_tensor_map(yaml: &str, rows: i64) -> Result<LaunchPlan, BindError> {
    plan_for_rows(&parse(yaml).unwrap(), rows)
}

#[test]
fn tensor_map_sizes_are_in_the_launch_plan() {
    let task = task_files().load().unwrap();
    let unit = parse(TENSOR_MAP_HEADER)
        .unwrap()
        .translation_unit(&task, &IndexMap::new(), false);
    assert_eq!(unit.entry_points[0].arguments[0], ArgumentType::TensorMap);
    let plan = plan_with_tensor_map(TENSOR_MAP_HEADER, 7).unwrap();
    assert_eq!(plan.launches[0].arguments[0], Argument::TensorMap(0));
    assert_eq!(
        plan.tensor_maps,
        [TensorMap {
            name: "x_map".to_owned(),
            buffer: 0,
            dims: vec![8, 7],
            strides: vec![16],
            tile: vec![8, 4],
            swizzle: 32,
        }]
    );
}

#[test]
fn only_tensor_maps_that_a_launch_takes_are_bound() {
    let two_ways = TENSOR_MAP_HEADER.replace(
        "    args: x_map, factor, y\n",
        "    args: y, x_map, factor\n    when: rows > 4\n  - kernel: copy\n    grid: rows\n    block: 32\n    args: y_map, y_map\n    when: rows < 20\n",
    ) + "\n  y_map: {of: y, dims: \"8, rows\", strides: \"if(rows < 20, 16, 0)\", box: \"8, 1\"}";
    let arguments = |plan: &LaunchPlan| -> Vec<Argument> {
        let all = plan.launches.iter().flat_map(|launch| &launch.arguments);
        all.filter(|argument| matches!(argument, Argument::TensorMap(_)))
            .copied()
            .collect()
    };
    for (rows, maps, places) in [
        (7, ["x_map", "y_map"].as_slice(), [0, 1, 1].as_slice()),
        (2, &["y_map"], &[0, 0]),
        // `y_map` has an impossible stride, and no launch takes it.
        (30, &["x_map"], &[0]),
    ] {
        let plan = plan_with_tensor_map(&two_ways, rows).unwrap();
        let names: Vec<_> = plan.tensor_maps.iter().map(|map| &map.name).collect();
        assert_eq!(names, maps, "{rows}");
        let expected: Vec<_> = places
            .iter()
            .map(|place| Argument::TensorMap(*place))
            .collect();
        assert_eq!(arguments(&plan), expected, "{rows}");
    }
}

#[test]
fn a_tensor_map_beyond_its_buffer_is_refused() {
    // `x` has 7 rows of 8 elements of 2 bytes.
    for (from, to, fault, expected) in [
        (
            "dims: \"columns, rows\"",
            "dims: \"columns, rows + 1\"",
            BindFault::LaunchError,
            "it reaches 128 bytes into `x`, which has 112",
        ),
        (
            "strides: \"columns * 2\"",
            "strides: \"columns * 4\"",
            BindFault::LaunchError,
            "it reaches 208 bytes into `x`, which has 112",
        ),
        (
            "strides: \"columns * 2\"",
            "strides: \"columns * 2 - 16\"",
            BindFault::LaunchError,
            "a stride: expected 1 to 1099511627776, found 0",
        ),
        (
            "box: \"columns, min(rows, 4)\"",
            "box: \"columns, 257\"",
            BindFault::LaunchError,
            "a size of the box: expected 1 to 256, found 257",
        ),
        (
            "strides: \"columns * 2\"",
            "strides: \"\"",
            BindFault::Rejected,
            "2 dims, 0 strides and 2 sizes of the box: expected 1 to 5 dims",
        ),
        (
            "box: \"columns, min(rows, 4)\"",
            "box: \"columns\"",
            BindFault::Rejected,
            "2 dims, 1 strides and 1 sizes of the box",
        ),
        (
            "swizzle: 32",
            "swizzle: 48",
            BindFault::Rejected,
            "`swizzle`: expected 0, 32, 64 or 128, found 48",
        ),
    ] {
        let error = plan_with_tensor_map(&TENSOR_MAP_HEADER.replace(from, to), 7).unwrap_err();
        assert_eq!((error.fault, error.line), (fault, 8), "{to}: {error}");
        assert!(
            error.message.starts_with("tensor map `x_map`: ") && error.message.contains(expected),
            "{to}: {error}"
        );
    }
}

#[test]
fn every_shipped_kernel_fits_every_workload_of_its_task() {
    for name in crate::task::embedded_names() {
        let task = TaskFiles::find(name)
            .and_then(|files| files.load())
            .unwrap();
        let limits = DeviceLimits {
            sm_count: 2,
            max_shared_bytes: 232_448,
        };
        for (file, text) in &task.kernels {
            let kernel = Kernel::parse(text, &task.definition)
                .unwrap_or_else(|error| panic!("{name}/{file}: {error}"));
            for workload in &task.workloads {
                let variant = kernel.variant_for(&workload.binding, &limits).unwrap();
                let target = LaunchTarget {
                    task: &task,
                    binding: &workload.binding,
                    scalars: &Scalars::new(),
                    limits: &limits,
                    is_oracle: false,
                };
                let plan = kernel.launch_plan(&target, &kernel.tunable_values(variant));
                assert!(
                    plan.is_ok(),
                    "{name}/{file}, {}: {}",
                    workload.id,
                    plan.unwrap_err()
                );
            }
        }
        assert!(
            Kernel::parse(&task.oracle, &task.definition).is_ok(),
            "{name}/oracle.cu"
        );
    }
}

#[test]
fn a_yaml_list_shared_by_two_tunables_is_not_edited() {
    let shared = VALID_HEADER
        .replace("[4, 1, 2]", "&list [4, 1, 2]")
        .replace("[32, 64]", "*list");
    let kernel = parse(&shared.replace("ROWS: 1}", "ROWS: 2}")).unwrap();
    assert_eq!(kernel.point()["WIDTH"], 4);
    for name in ["ROWS", "WIDTH"] {
        let point = IndexMap::from([(name.to_owned(), 1)]);
        assert_eq!(
            with_point(&kernel, &point),
            None,
            "both tunables would change"
        );
    }
}

#[test]
fn tunables_and_their_values_are_limited() {
    let list = |count: i64| {
        (0..count)
            .map(|value| value.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let values = |count: i64| {
        parse(&VALID_HEADER.replace(
            "[4, 1, 2]",
            &format!("[4, 1, 2, {}]", list(count).replace("0, 1, 2, 3, 4, ", "")),
        ))
    };
    assert!(values(1000).is_ok());
    let error = values(100_000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 9: tunable `ROWS`: expected at most 1000 values, found 99998"
    );
    let many: String = (0..5000)
        .map(|index| format!("\n  MANY{index}: [1, 2]"))
        .collect();
    let error =
        parse(&VALID_HEADER.replace("\nvariants", &format!("{many}\nvariants"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 73: `tunables`: expected at most 64, found 5002"
    );
}
