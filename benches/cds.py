#!/usr/bin/env python3
"""How long a card takes. Usage: benches/cds.py [CALLS] [PATIENTS] [SEED]

Imports a generated export (12,000 patients, seed 42) into a store of its own with NEPHROGATE (target/release/nephrogate),
serves it with one registered CDS client, and calls patient-view CALLS times (500) over one connection: of patients of whom
there is a card, and of others, in turn. Prints median, 95th and 99th percentile and maximum in milliseconds of both.
Needs ../shared/tools (the generator) and openssl. The tokens are signed before the clock starts.
"""
import base64, http.client, json, os, pathlib, re, statistics, subprocess, sys, tempfile, time, urllib.request, uuid

calls, patients, seed = (int(sys.argv[at]) if len(sys.argv) > at else default for at, default in ((1, 500), (2, 12000), (3, 42)))
root = pathlib.Path(__file__).resolve().parent.parent
tools = root.parent / "shared/tools/generate.py"
if not tools.exists():
    sys.exit(f"skipped: {tools} is not here")
binary = os.environ.get("NEPHROGATE", str(root / "target/release/nephrogate"))
data = pathlib.Path(os.environ.get("BENCH_DATA", root / "target/bench")) / f"generated-{patients}-{seed}"
if not (data / "manifest.json").exists():
    data.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, tools, "-n", str(patients), "--seed", str(seed), "-o", data], check=True, stdout=subprocess.DEVNULL)
folder = tempfile.TemporaryDirectory(prefix="nephrogate-cds.")
work = pathlib.Path(folder.name)
key, jwks, file = work / "key.pem", work / "jwks.json", work / "config.json"
subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, stderr=subprocess.DEVNULL)
jwks.write_bytes(subprocess.run([root / "docs/cds-try.sh", "--jwks", key], check=True, stdout=subprocess.PIPE).stdout)
public, issuer, site = "https://gateway.example.org", "https://ehr.example.org/cds", "generated"
budget = {"per_user_and_day": 1000, "per_study_and_day": 100000}
client = {"note": "bench", "issuer": issuer, "site": site, "jwks_file": "jwks.json", "from": "candidate", "budget": budget}
file.write_text(json.dumps({"listen": "127.0.0.1:0", "public_url": public, "store": {"sqlite_dir": "store"},
                            "sites": [{"site": site, "note": "bench"}], "cds_clients": [client]}))
subprocess.run([binary, "import", "--site", site, "--config", file, data], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
gate = subprocess.Popen([binary, "serve", "--config", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    base = re.search(r"http://\S+", gate.stdout.readline())[0]

    def ask(path):
        with urllib.request.urlopen(base + path) as answer:
            return json.load(answer)

    def some(query):
        found, path = [], query
        while path and len(found) < calls:
            page = ask(path)
            found += [row["subject"] for row in page["rows"]]
            path = page.get("next")
        return found

    study = next(s["id"] for s in ask("/api/studies")["studies"] if ask(f"/api/studies/{s['id']}/subjects?prescreen=met")["rows"])
    list_path = f"/api/studies/{study}/subjects"
    told, untold = some(f"{list_path}?prescreen=met"), some(f"{list_path}?prescreen=not-met")
    counts = ask(list_path)["counts"]
    url = f"{public}/cds-services/{study}"

    def part(bytes):
        return base64.urlsafe_b64encode(bytes).rstrip(b"=")

    def token():
        now = int(time.time())
        claims = {"iss": issuer, "aud": url, "iat": now, "exp": now + 290, "jti": uuid.uuid4().hex}
        text = part(json.dumps({"alg": "RS384", "typ": "JWT", "kid": "try"}).encode()) + b"." + part(json.dumps(claims).encode())
        signature = subprocess.run(["openssl", "dgst", "-sha384", "-sign", key, "-binary"], input=text, stdout=subprocess.PIPE, check=True).stdout
        return (text + b"." + part(signature)).decode()

    times = {"a card": [], "no card": []}
    door = http.client.HTTPConnection(base.removeprefix("http://"))
    for begin in range(0, calls, 100):
        tokens = [token() for _ in range(min(100, calls - begin))]
        for number, signed in enumerate(tokens, begin):
            patient = (told if number % 2 == 0 else untold)[number // 2 % len(told if number % 2 == 0 else untold)]
            body = json.dumps({"hook": "patient-view", "hookInstance": str(uuid.uuid4()), "context": {"userId": f"Practitioner/{number % 20}", "patientId": patient}})
            began = time.perf_counter()
            door.request("POST", f"/cds-services/{study}", body, {"Authorization": f"Bearer {signed}", "Content-Type": "application/json"})
            answer = door.getresponse()
            text = answer.read()
            took = time.perf_counter() - began
            assert answer.status == 200, text
            times["a card" if json.loads(text)["cards"] else "no card"].append(took * 1000)
    print(f"{sum(counts.values())} subjects on the list, {binary}")
    for name, taken in times.items():
        ordered = sorted(taken)
        at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
        print(f"{name}: median {statistics.median(ordered):.1f} ms, 95th percentile {at(0.95):.1f} ms, 99th {at(0.99):.1f} ms, maximum {ordered[-1]:.1f} ms, n {len(ordered)}")
finally:
    gate.terminate()
    gate.wait()
