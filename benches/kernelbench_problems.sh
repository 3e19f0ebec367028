#!/bin/bash
# Imports 27 problems of KernelBench, and times their own PyTorch code against the naive kernel of the import:
#
#   KFORGE=target/release/kforge benches/kernelbench_problems.sh CHECKOUT OUT
#
# 20 of level 1, 5 of level 2, 2 of level 3, drawn by `random.Random(7).sample` for each level. OUT gets a folder for each problem with what the
# import and `kforge baselines` printed, and `times.txt`: problem, task, exit codes of both, and when it began, was imported and ended, in
# seconds. AT_ONCE (6): how many at a time. PROBLEMS: others, as LEVEL:NUMBER. Needs a GPU, a Python with PyTorch, and a checkout of KernelBench.
set -u
export KFORGE=$(realpath "${KFORGE:-target/release/kforge}") CHECKOUT=$(realpath "$1")
mkdir -p "$2"; export OUT=$(realpath "$2")
# ResNet101 (3:10) is last, as it takes longest. Large and small ones take turns, so that the memory suffices.
PROBLEMS=${PROBLEMS:-1:5 1:54 1:7 1:56 1:8 1:65 1:20 1:69 1:9 1:71 1:28 1:75 1:10 1:84 1:31 1:12 1:13 1:42 1:47 1:51 2:7 2:20 2:42 2:51 2:84 3:21 3:10}
problem() {
  folder=$OUT/$1; mkdir -p "$folder"; cd "$folder" || exit 1
  begun=$(date +%s.%N)
  timeout -k 3 100 "$KFORGE" tasks import kernelbench "$CHECKOUT" --level "${1%%:*}" --problem "${1##*:}" > import.txt 2>&1; imported=$?
  middle=$(date +%s.%N)
  task=$(ls tasks 2> /dev/null | head -1); judged=-
  if [ -n "$task" ]; then
    KFORGE_LOG=debug timeout -k 3 60 "$KFORGE" baselines "$task" --only eager --seconds 0.2 --print-only --format json > table.json 2> log.txt; judged=$?
  fi
  echo "$1 ${task:--} $imported $judged $begun $middle $(date +%s.%N)" >> "$OUT/times.txt"
}
export -f problem
echo "$PROBLEMS" | tr ' ' '\n' | xargs -P "${AT_ONCE:-6}" -I{} bash -c 'problem {}'
