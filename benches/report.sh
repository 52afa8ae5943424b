#!/usr/bin/env bash
# Times `nephrogate report --format json` over an invented trial, from files and from a store that was filled with them.
#   benches/report.sh [RUNS=5] [SUBJECTS=10000] [SEED=42]
# Needs python3, GNU time and a release build. Data stay in ${BENCH_DATA:-target/bench} for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-5} subjects=${2:-10000} seed=${3:-42}
data=${BENCH_DATA:-target/bench}/trial-$subjects-$seed
gate=${NEPHROGATE:-${CARGO_TARGET_DIR:-target}/release/nephrogate}
[ -x "$gate" ] || cargo build --release
[ -d "$data/north-hospital" ] || python3 benches/trial.py "$data" "$subjects" "$seed"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
# The store's own catalogue is the one compiled in; as of the end of the invented trial.
"$gate" import --dir "$work/store" --site north-hospital "$data/north-hospital" | tail -n +1
cat "$data"/*/*.ndjson > /dev/null   # both read from memory
: > "$work/times"
for run in $(seq "$runs"); do
  /usr/bin/time -f "files %e %U %S %M" -a -o "$work/times" "$gate" report --study elixcyte-1 --format json --as-of 2024-12-31 "$data" > "$work/files.json" 2> "$work/summary"
  /usr/bin/time -f "store %e %U %S %M" -a -o "$work/times" "$gate" report --study elixcyte-1 --format json --as-of 2024-12-31 --dir "$work/store" > "$work/store.json" 2>> "$work/summary"
done
cat "$work/summary"
python3 - "$work" <<'PY'
import json, re, statistics, sys
work, runs = sys.argv[1], {}
for line in open(f"{work}/times"):
    name, wall, user, system, kilobytes = line.split()
    runs.setdefault(name, []).append((float(wall), float(user) + float(system), int(kilobytes) / 1000))
for name, of in runs.items():
    wall, cpu, memory = (statistics.median(column) for column in zip(*of))
    print(f"{name:6} wall {wall:.2f} s (best {min(w for w, _, _ in of):.2f}), processor {cpu:.2f} s, memory {memory:.0f} MB")
head = lambda name: open(f"{work}/{name}.json").read().split(',"study":', 1)[0]
print(head("store") + "}")
# Both ways are one way: the figures of the head must agree.
assert head("files") == head("store"), head("files")
PY
