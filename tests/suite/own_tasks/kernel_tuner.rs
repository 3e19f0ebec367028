//! Kernels of Kernel Tuner's T1 files as tasks: tunables, constraints, arguments, results, and what is refused.

use serde_json::{Value, json};

use crate::program::{CommandResult, Workspace, fixture};

/// A workspace with the T1 files and kernels of the fixtures.
fn workspace() -> Workspace {
    let folder = Workspace::new();
    for file in [
        "vector_add.json",
        "vector_add.cu",
        "matmul.json",
        "matmul.cu",
    ] {
        let text = std::fs::read_to_string(fixture("kernel_tuner").join(file)).unwrap();
        folder.write(file, &text);
    }
    folder
}

fn import(folder: &Workspace, more: &[&str]) -> CommandResult {
    folder.run(&[&["tasks", "import", "kernel-tuner"], more].concat())
}

#[test]
fn a_kernel_is_imported_checked_measured_and_tuned() {
    let folder = workspace();
    let result = import(&folder, &["vector_add.json"]).exits_with(0);
    result.shows(&[
        "tasks/vector_add: 1 workload; 2 tunables, 1 constraint; the oracle is the kernel in its first configuration\n",
    ]);
    let kernel = folder.read("kernels/vector_add/naive.cu");
    for line in [
        "    grid: ceil_div(100000, BLOCK_SIZE_X * PER_THREAD)\n    block: BLOCK_SIZE_X\n    args: sum, one, other, 100000\n",
        "  BLOCK_SIZE_X: [64, 32, 96, 128, 160, 192, 224, 256]\n  PER_THREAD: [1, 2, 4]\n",
        "constraints:\n  - BLOCK_SIZE_X * PER_THREAD <= 512\n",
        "#define block_size_x BLOCK_SIZE_X\n",
    ] {
        assert!(kernel.contains(line), "{kernel}");
    }
    let check = folder.run(&["tasks", "check", "vector_add", "--profile=quick"]);
    check.exits_with(0).shows(&["admitted"]);

    // Some points of the grid, as T4. The fastest of them comes first in another import.
    let kernel = "kernels/vector_add/naive.cu";
    let grid = [
        "eval",
        "vector_add",
        kernel,
        "--grid",
        "--output=space.json",
        "--backend=cpu",
    ];
    folder
        .run(&[&grid[..], &["--limit=3", "--samples=6"]].concat())
        .exits_with(0);
    let results: Value = serde_json::from_str(&folder.read("space.t4.json")).unwrap();
    let measured = results["results"].as_array().unwrap().iter();
    let time = |result: &&Value| result["measurements"][0]["value"].as_f64();
    let correct = measured.filter(|result| result["invalidity"] == "correct");
    let fastest = correct.min_by(|one, other| time(one).unwrap().total_cmp(&time(other).unwrap()));
    let fastest = &fastest.unwrap()["configuration"];
    let again = ["vector_add.json", "--name=again", "--results=space.t4.json"];
    import(&folder, &again).exits_with(0);
    let kernel = folder.read("kernels/again/naive.cu");
    for name in ["BLOCK_SIZE_X", "PER_THREAD"] {
        let first = format!("  {name}: [{},", fastest[name]);
        assert!(kernel.contains(&first), "{first} {kernel}");
    }

    let run = folder.run(&[
        "evolve",
        "again",
        "--backend=cpu",
        "--no-model",
        "--steps=4",
        "--set=search.operators.mutate=0",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.3",
        "--output=run",
    ]);
    assert!([0, 5].contains(&run.code), "{run:?}");
    run.shows(&["4 of 4 steps"]);
    assert!(folder.read("run/again/events.jsonl").contains("autotune"));
}

#[test]
fn a_kernel_that_adds_to_its_output_is_judged_by_itself() {
    let folder = workspace();
    import(&folder, &["matmul.json"]).exits_with(0);
    let kernel = folder.read("kernels/matmul/naive.cu");
    // The default, and the first value that meets the conditions.
    for line in [
        "    grid: ceil_div(96, BLOCK_SIZE_X), ceil_div(96, BLOCK_SIZE_Y * ROWS_PER_THREAD)\n    block: BLOCK_SIZE_X, BLOCK_SIZE_Y\n    args: a, b, c_out, alpha\n",
        "  - 96 % (BLOCK_SIZE_Y * ROWS_PER_THREAD) == 0 and ROWS_PER_THREAD != 3\n",
        "  BLOCK_SIZE_Y: [16, 2, 4, 8]\n",
    ] {
        assert!(kernel.contains(line), "{kernel}");
    }
    let settings = folder.read("tasks/matmul/task.yaml");
    assert!(settings.contains("in_place:\n  c_out: c\n"), "{settings}");
    let check = folder.run(&["tasks", "check", "matmul", "--profile=quick"]);
    check.exits_with(0).shows(&["admitted"]);
    // Another configuration computes the same; a kernel without `c` does not.
    let tuned = kernel.replace("  BLOCK_SIZE_X: [8, 16, 32]", "  BLOCK_SIZE_X: [16, 8, 32]");
    folder.write("tuned.cu", &tuned);
    folder.write(
        "wrong.cu",
        &kernel.replace("total[i] + c[place]", "total[i]"),
    );
    let judge = ["eval", "matmul", "tuned.cu", "wrong.cu", "--backend=cpu"];
    let result = folder.run(&[&judge[..], &["--seconds=0.2", "--precision=0.9"]].concat());
    result.exits_with(5).shows(&["wrong.cu: wrong_output"]);
}

#[test]
fn what_kforge_cannot_tune_is_refused_with_its_place() {
    let folder = workspace();
    let good: Value = serde_json::from_str(&folder.read("vector_add.json")).unwrap();
    let with = |pointer: &str, value: Value, messages: &[&str]| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        folder.write("changed.json", &changed.to_string());
        import(&folder, &["changed.json"]).assert_exit(2, messages);
    };
    let parameters = "/ConfigurationSpace/TuningParameters";
    let arguments = "/KernelSpecification/Arguments";
    with(
        "/KernelSpecification/Language",
        json!("OpenCL"),
        &["`Language` is `OpenCL`"],
    );
    with(
        "/KernelSpecification/KernelFile",
        json!("no.cu"),
        &["there is no kernel file `no.cu`"],
    );
    with(
        &format!("{parameters}/0/Values"),
        json!("[0.5, 1.0]"),
        &["TuningParameters[0]: `block_size_x` has values that kforge cannot read"],
    );
    with(
        &format!("{parameters}/1/Type"),
        json!("string"),
        &["is of type `string`"],
    );
    with(
        "/ConfigurationSpace/Conditions/0/Expression",
        json!("block_size_x / per_thread > 3"),
        &["Conditions[0]", "`/` gives fractions in Python: write `//`"],
    );
    with(
        &format!("{arguments}/1/Type"),
        json!("custom"),
        &["KernelSpecification.Arguments[1]: kforge does not know the type `custom`"],
    );
    with(
        &format!("{arguments}/0/AccessType"),
        json!("ReadOnly"),
        &["no argument is written"],
    );
    with(
        &format!("{arguments}/2/Size"),
        json!("size_of_it"),
        &["`other` has a size that kforge cannot read: `size_of_it`"],
    );
    with(
        &format!("{arguments}/0/Type"),
        json!("half"),
        &[
            "the output `sum` is float16, so the kernel cannot be its own oracle",
            "--oracle FILE.py",
        ],
    );
    let kernel = folder.read("vector_add.cu");
    let dynamic = format!("extern __shared__ float staged[];\n{kernel}");
    folder.write("vector_add.cu", &dynamic);
    with(
        "/KernelSpecification/SharedMemory",
        json!(1024),
        &["`SharedMemory` is not 0"],
    );
    folder.write("vector_add.cu", &kernel);
    folder.write("other.json", "{\"KernelSpecification\": {}}");
    import(&folder, &["other.json"]).assert_exit(2, &["other.json: ", "ConfigurationSpace"]);
    import(&folder, &["missing.json"]).assert_exit(2, &["failed to read `missing.json`"]);
    folder.write("t4.json", "{\"results\": []}");
    import(&folder, &["vector_add.json", "--results=t4.json"])
        .assert_exit(2, &["t4.json: no result is correct"]);
    assert!(!folder.path().join("tasks").exists());
}

/// Kinds that files of others have: joined lists, lists instead of their text, numbers as texts, formulas, static shared memory.
#[test]
fn values_are_read_in_the_forms_that_files_have() {
    let folder = workspace();
    let mut problem: Value = serde_json::from_str(&folder.read("vector_add.json")).unwrap();
    let parameters = "/ConfigurationSpace/TuningParameters";
    let arguments = "/KernelSpecification/Arguments";
    for (pointer, value) in [
        (
            format!("{parameters}/0/Values"),
            json!("[32] + [2**i for i in range(6, 8)]"),
        ),
        (format!("{parameters}/1/Values"), json!([1, 2])),
        (format!("{arguments}/1/FillType"), json!("Generator")),
        (format!("{arguments}/2/FillValue"), json!("2.0")),
        (
            "/KernelSpecification/SharedMemory".to_owned(),
            json!("4 * block_size_x"),
        ),
    ] {
        *problem.pointer_mut(&pointer).unwrap() = value;
    }
    folder.write("forms.json", &problem.to_string());
    import(&folder, &["forms.json"]).exits_with(0);
    let kernel = folder.read("kernels/vector_add/naive.cu");
    assert!(
        kernel.contains("  BLOCK_SIZE_X: [64, 32, 128]\n  PER_THREAD: [1, 2]\n"),
        "{kernel}"
    );
    let settings = folder.read("tasks/vector_add/task.yaml");
    assert!(
        settings.contains("one: {\"normal\":1.0}") || settings.contains("one: {normal: 1.0}"),
        "{settings}"
    );
}
