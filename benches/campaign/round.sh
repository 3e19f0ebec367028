#!/bin/bash
# One round of the campaign on a GPU: continues searches in outputs/, each for at most some seconds, two at a time.
#
#   KFORGE=target/release/kforge benches/campaign/round.sh matmul-start:64:60 gdn_decode-start:72:35
#
# An argument is RUN:STEPS:SECONDS, with the steps in all. The time is set from outside: with `--budget-seconds` a resume would keep a part of
# the time for confirmation, and a short one would search for no second. Messages go to outputs/RUN.err. PAR: how many at a time.
# No Python is started: pairs with a library belong to `kforge promote`, which follows the last round.
set -u
export KFORGE=${KFORGE:-target/release/kforge} KFORGE_PYTHON=${KFORGE_PYTHON:-/bin/false} NO_COLOR=1
one() {
  IFS=: read -r run steps seconds <<< "$1"
  begun=$SECONDS
  timeout -s INT -k 20 "$seconds" "$KFORGE" resume "outputs/$run" --accept-changes --no-wait --steps "$steps" --set search.tune_first=0 \
    > "outputs/$run.out" 2> "outputs/$run.err"
  echo "$run: exit $?, $((SECONDS - begun)) s"
}
export -f one
printf '%s\n' "$@" | xargs -P "${PAR:-2}" -I{} bash -c 'one {}'
