#!/usr/bin/env bash
# Times a Bulk Data export against `nephrogate import` of the same files, run by run into fresh SQLite stores on the same disk,
# and compares what both stores hold. Wall-clock time of the whole command, judging included; the export's also holds the
# second until the first look at its job.
#   benches/export.sh [RUNS=3] [PATIENTS=100000] [SEED=42]
# KILLS=N takes one more export that is killed (SIGKILL) N times on its way and goes on, and compares what it holds as well.
# Needs what benches/import.sh needs. Data stay in ${BENCH_DATA:-target/bench} for the next run, stores are removed.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-3} patients=${2:-100000} seed=${3:-42}
tools=../shared/tools
[ -f $tools/generate.py ] || { echo "skipped: $tools is not here"; exit 0; }
data=${BENCH_DATA:-target/bench}/generated-$patients-$seed
gate=${CARGO_TARGET_DIR:-target}/release/nephrogate
[ -x "$gate" ] || cargo build --release
[ -f "$data/manifest.json" ] || { mkdir -p "$data"; python3 $tools/generate.py -n "$patients" --seed "$seed" -o "$data"; }
work=$(mktemp -d "${BENCH_STORE:-${TMPDIR:-/tmp}}/nephrogate-export.XXXXXX")
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
python3 benches/export.py "$data" "$port" > "$work/server" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
until grep -q ready "$work/server"; do sleep 0.1; kill -0 "$server"; done
cat > "$work/gateway.json" <<JSON
{ "listen": "127.0.0.1:0", "store": { "sqlite_dir": "export" },
  "sites": [ { "site": "generated", "note": "a benchmark", "source": { "base_url": "http://127.0.0.1:$port/fhir" },
    "feeds": [ { "name": "export", "note": "a benchmark", "bulk": { "level": "system" } } ] } ] }
JSON
cat "$data"/*.ndjson > /dev/null   # all files are in memory now
for run in $(seq "$runs"); do
  rm -rf "$work/import" "$work/export"
  /usr/bin/time -f "import %e %U %S %M" -a -o "$work/times" "$gate" import --site generated --dir "$work/import" "$data" > "$work/said" 2> "$work/log" \
    || { cat "$work/log"; exit 1; }
  /usr/bin/time -f "export %e %U %S %M" -a -o "$work/times" "$gate" feed run --config "$work/gateway.json" --site generated --feed export \
    > "$work/said" 2> "$work/log" || { cat "$work/log"; exit 1; }
done
cat "$work/said"
if [ "${KILLS:-0}" -gt 0 ]; then
  sed 's|"export" },|"killed" },|' "$work/gateway.json" > "$work/killed.json"
  python3 - "$gate" "$work" "$KILLS" <<'PY'
import sqlite3, subprocess, sys, time
gate, work, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
command = [gate, "feed", "run", "--config", f"{work}/killed.json", "--site", "generated", "--feed", "export"]

def run(seconds):
    """Takes for so long, then is killed; `True` when it came to its end before. Who was killed holds the feed for a minute."""
    while True:
        taker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said, errors = taker.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            taker.kill()
            taker.communicate()
            return False
        if taker.returncode == 0:
            print(said, end="")
            return True
        if "works on this feed" not in errors:
            sys.exit(errors)
        time.sleep(3)

for kill in range(kills):
    if run(3 + 2 * kill):
        sys.exit("it was through before it could be killed: take more patients")
    print("killed with", sqlite3.connect(f"{work}/killed/nephrogate.db").execute("SELECT COUNT(*) FROM messages").fetchone()[0], "messages")
run(None)
PY
fi
python3 - "$work" "$data" <<'PY'
import glob, os, sqlite3, statistics, sys
work, data = sys.argv[1], sys.argv[2]

def held(name):
    store = sqlite3.connect(f"{work}/{name}/nephrogate.db")
    ends = dict(store.execute("SELECT disposition, SUM(messages) FROM tallies GROUP BY disposition"))
    facts = store.execute("SELECT COUNT(*), COUNT(DISTINCT subject) FROM facts").fetchone()
    waiting = store.execute("SELECT COUNT(*) FROM subjects WHERE waiting_ms IS NOT NULL").fetchone()[0]
    return ends, facts, waiting

names = ["import", "export"] + ["killed"] * os.path.exists(f"{work}/killed")
all_held = {name: held(name) for name in names}
print(" and ".join(names), "hold", *all_held["import"]) if all(one == all_held["import"] for one in all_held.values()) else sys.exit(str(all_held))
observations = sum(sum(1 for _ in open(name, "rb")) for name in glob.glob(f"{data}/Observation.*.ndjson"))
walls = {"import": [], "export": []}
for line in open(f"{work}/times"):
    what, wall, user, system, kilobytes = line.split()
    walls[what].append(float(wall))
    print(f"{what}: wall {float(wall):.1f} s, processor {float(user) + float(system):.1f} s, memory {int(kilobytes) / 1000:.0f} MB, "
          f"{observations / float(wall):,.0f} Observations/s")
medians = {what: statistics.median(times) for what, times in walls.items()}
print(f"export at {100 * medians['import'] / medians['export']:.0f} % of the speed of import (medians of {len(walls['import'])} runs)")
PY
