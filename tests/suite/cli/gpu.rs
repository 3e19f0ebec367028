//! GPU settings on a machine without a GPU.

use crate::program::{CommandResult, SOFTMAX_KERNEL, Workspace};

#[test]
fn missing_gpu_is_an_environment_failure_with_a_hint() {
    let folder = Workspace::new();
    let kernel = folder.write("kernel.cu", SOFTMAX_KERNEL);
    let evolve = ["evolve", "--config", "gdn_decode.yaml", "--dry-run"];
    // Also on a machine with a GPU.
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        CommandResult::of(&command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap())
    };
    for all in [
        [evolve.as_slice(), &["--backend", "cuda"]].concat(),
        [evolve.as_slice(), &["--set", "backend=cuda"]].concat(),
        vec!["eval", "softmax", &kernel, "--backend", "cuda"],
    ] {
        let result = run(&all);
        result.assert_exit(3, &["hint:"]);
        let remedies = [
            (
                "no CUDA driver",
                "install the GPU's driver, or use `--backend cpu`",
            ),
            ("no GPU was found", "`kforge doctor`"),
            ("failed to list the GPUs", "nvidia-smi"),
            ("NVRTC", "pip install nvidia-cuda-nvrtc"),
        ];
        let shows = |(what, remedy): &(&str, &str)| {
            result.stderr.contains(what) && result.stderr.contains(remedy)
        };
        assert!(remedies.iter().any(shows), "{}", result.stderr);
    }
    // Without an explicit backend the CPU is chosen, and shown.
    let result = run(&evolve);
    assert_eq!(result.code, 0, "{}", result.stderr);
    assert!(result.stdout.contains("backend: cpu"), "{}", result.stdout);
}

#[test]
fn empty_cuda_visible_devices_hides_all_gpus() {
    let folder = Workspace::new();
    let all = [
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--dry-run",
        "--backend",
    ];
    let run = |backend| {
        let mut command = folder.command(&[all.as_slice(), &[backend]].concat());
        CommandResult::of(&command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap())
    };
    run("cuda").assert_exit(3, &["hint:"]);
    let result = run("auto");
    assert_eq!(result.code, 0, "{}", result.stderr);
    assert!(result.stdout.contains("backend: cpu"), "{}", result.stdout);
}

#[test]
fn gpu_settings_are_checked_without_a_gpu() {
    let folder = Workspace::new();
    let dry_run = |set: &str| {
        folder.run(&[
            "evolve",
            "--config",
            "gdn_decode.yaml",
            "--backend",
            "cpu",
            "--dry-run",
            "--set",
            set,
        ])
    };
    for (set, shown) in [
        ("eval.devices=[0,1]", "devices:"),
        ("eval.devices=all", "devices: all"),
        ("eval.cache=hot", "cache: hot"),
        ("eval.screen=cpu", "screen: cpu"),
        ("eval.in_flight=7", "in_flight: 7"),
    ] {
        let result = dry_run(set);
        assert_eq!(result.code, 0, "{set}: {}", result.stderr);
        assert!(result.stdout.contains(shown), "{set}: {}", result.stdout);
    }
    for (set, texts) in [
        (
            "eval.devices=some",
            vec![
                "eval.devices",
                "`all` or a list of indices and UUID prefixes",
            ],
        ),
        ("eval.devices=[-1]", vec!["eval.devices"]),
        ("eval.devices=3", vec!["eval.devices"]),
        ("eval.cache=warm", vec!["eval.cache", "`cold`", "`hot`"]),
        (
            "eval.screen=gpu",
            vec!["eval.screen", "unknown value `gpu`"],
        ),
        (
            "eval.in_flight=0",
            vec!["`eval.in_flight`: expected 1 to 64"],
        ),
        (
            "eval.device=0",
            vec!["unknown key `eval.device`", "did you mean `devices`?"],
        ),
    ] {
        dry_run(set).assert_exit(2, &texts);
    }
}
