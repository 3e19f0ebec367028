#!/usr/bin/env python3
"""Compiles exports as far as that needs no GPU.

Exports each kernel as `cupy`, `cuda-core`, `hf-kernels` and `rust`, and checks: the Python modules compile all their programs with the NVRTC
of CuPy and of cuda.core, whose cubins have the same size; `build.toml` names files that exist; the crate and its example pass `cargo
check` without a warning. What a machine lacks is reported as `missing`. Exit code 1: a check failed.

    python3 tests/exports/check_without_gpu.py --kforge target/release/kforge kernels/*/*.cu
    python3 tests/exports/check_without_gpu.py --kforge target/release/kforge --task softmax --arch sm_90a tests/exports/everything.cu

Needs the Python packages cupy-cuda13x, cuda-core, nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl, and cargo
with cudarc in its cache.
"""

import argparse
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def export(kforge, kernel, task, form, folder):
    """Returns why the form is refused, if it is."""
    command = [kforge, "export", kernel, "--to", form, "--output", folder] + (["--task", task] if task else [])
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if ended.returncode not in (0, 2):
        raise RuntimeError(ended.stderr)
    return ended.stderr.strip().splitlines()[0] if ended.returncode else None


def module_sizes(folder, arch):
    """Sizes of the cubins of a Python module, one for each program."""
    path = next(folder.glob("*.py"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = []
    for program in range(len(module._TUNABLES)):
        compiled = module._compile(program, arch)
        cubin = compiled[0] if isinstance(compiled, tuple) else compiled.code
        # One of the tools leaves out a last zero byte.
        sizes.append(len(bytes(cubin).rstrip(b"\0")))
    return sizes


def check_hub(folder):
    build = tomllib.loads((folder / "build.toml").read_text())
    module = build["general"]["name"].replace("-", "_")
    kernels = build["kernel"].values()
    files = [*build["torch"]["src"], *(source for kernel in kernels for source in kernel["src"])]
    for name in [*files, f"torch-ext/{module}/__init__.py", "CARD.md", "flake.nix"]:
        if not (folder / name).is_file():
            raise RuntimeError(f"{name} is missing")
    return "all files are there"


def check_crate(folder, target):
    command = ["cargo", "check", "--offline", "--all-targets", "--target-dir", target]
    environment = os.environ | {"RUSTFLAGS": "-Dwarnings"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-3000:])
    return "cargo check passes"


def check(form, folder, target, arch, known):
    if form == "hf-kernels":
        return check_hub(folder)
    if form == "rust":
        return check_crate(folder, target) if shutil.which("cargo") else "missing: cargo"
    try:
        sizes = module_sizes(folder, arch)
    except ImportError as error:
        return f"missing: {error}"
    if known.setdefault("sizes", sizes) != sizes:
        raise RuntimeError(f"cubins of {sizes} bytes, the other form has {known['sizes']}")
    return f"cubins of {', '.join(map(str, sizes))} bytes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="+")
    parser.add_argument("--kforge", default=str(ROOT / "target/release/kforge"))
    parser.add_argument("--task")
    parser.add_argument("--arch", default="sm_90")
    arguments = parser.parse_args()
    fine = True
    with tempfile.TemporaryDirectory() as name:
        for kernel in arguments.kernels:
            known = {}
            for form in ("hf-kernels", "cupy", "cuda-core", "rust"):
                folder = pathlib.Path(name) / kernel.replace("/", "-") / form
                try:
                    refused = export(arguments.kforge, kernel, arguments.task, form, folder)
                    state = f"refused: {refused}" if refused else check(form, folder, pathlib.Path(name) / "target", arguments.arch, known)
                except Exception as error:  # The other forms are still checked.
                    fine = False
                    state = f"FAILED {type(error).__name__}: {error}"
                print(f"{kernel} {form}: {state}", flush=True)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
