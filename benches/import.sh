#!/usr/bin/env bash
# Times `nephrogate import` of a generated export into a fresh SQLite store, and prints what one run took and the median.
#   benches/import.sh [RUNS=3] [PATIENTS=100000] [SEED=42]
# Needs ../shared/tools (the generator), GNU time, and a release build; each run takes 1.2 GB of disk for 100,000
# patients. Data stay in ${BENCH_DATA:-target/bench} for the next run, stores are removed (BENCH_STORE=... puts them on
# another disk: the time of an import is also that of its fsyncs).
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-3} patients=${2:-100000} seed=${3:-42}
tools=../shared/tools
[ -f $tools/generate.py ] || { echo "skipped: $tools is not here"; exit 0; }
data=${BENCH_DATA:-target/bench}/generated-$patients-$seed
gate=${CARGO_TARGET_DIR:-target}/release/nephrogate
[ -x "$gate" ] || cargo build --release
[ -f "$data/manifest.json" ] || { mkdir -p "$data"; python3 $tools/generate.py -n "$patients" --seed "$seed" -o "$data"; }
store=$(mktemp -d "${BENCH_STORE:-${TMPDIR:-/tmp}}/nephrogate-import.XXXXXX"); trap 'rm -rf "$store"' EXIT
observations=$(cat "$data"/Observation.*.ndjson | wc -l)   # and all files are in memory now
cat "$data"/*.ndjson > /dev/null
: > "$store/times"
for run in $(seq "$runs"); do
  rm -rf "$store/run"
  /usr/bin/time -f "%e %U %S %M" -a -o "$store/times" "$gate" import --site generated --dir "$store/run" "$data" > "$store/summary" 2> "$store/log" \
    || { cat "$store/log"; exit 1; }
  taking=$(sed -n 's/^received .* in \([0-9.]*\) s$/\1/p' "$store/summary")
  judging=$(sed -n 's/^judged .* in \([0-9.]*\) s$/\1/p' "$store/summary")
  echo "$taking $judging $(stat -c %s "$store/run/nephrogate.db")" >> "$store/steps"
done
cat "$store/summary"
python3 - "$store" "$observations" <<'PY'
import statistics, sys
store, observations = sys.argv[1], int(sys.argv[2])
times = [[float(field) for field in line.split()] for line in open(f"{store}/times")]
steps = [[float(field) for field in line.split()] for line in open(f"{store}/steps")]
for (wall, user, system, kilobytes), (taking, judging, size) in zip(times, steps):
    print(f"taken in {taking:.1f} s ({observations / taking:,.0f} Observations/s), judged in {judging:.1f} s, wall {wall:.1f} s, "
          f"processor {user + system:.1f} s, memory {kilobytes / 1000:.0f} MB, database {size / 1e6:,.0f} MB")
print(f"median: {observations / statistics.median(taking for taking, _, _ in steps):,.0f} Observations/s")
PY
