#!/usr/bin/env python3
"""How many HL7 v2 messages a second are acknowledged. Usage: benches/mllp.py [SECONDS] [HOST:PORT]

Without HOST:PORT a gateway of its own is started with NEPHROGATE (target/release/nephrogate) on a fresh SQLite store
(BENCH_STORE=... puts it on another disk: an acknowledgement waits for an fsync), and afterwards it is asked whether what it
counted is what was sent. With HOST:PORT messages go to a feed that listens there, of a site that takes PID-3 of DEMO and MR.

Each message is an ORU^R01 with one creatinine of its own order, of one of 20,000 patients, 550 bytes. Senders wait for each answer, as
most do, or keep 16 messages in flight. Prints messages a second and how long an acknowledgement took.
"""
import json, os, pathlib, re, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.request

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
root = pathlib.Path(__file__).resolve().parent.parent
binary = os.environ.get("NEPHROGATE", str(root / "target/release/nephrogate"))
site, run = "demo-hospital", f"{int(time.time()):x}"


def message(number):
    patient, at = f"bench{number % 20000}", time.strftime("%Y%m%d%H%M%S", time.gmtime()) + "+0000"
    return (
        f"MSH|^~\\&|LIS|DEMO|NEPHROGATE|DEMO|{at}||ORU^R01^ORU_R01|{run}-{number}|P|2.5.1|||||TWN|UNICODE UTF-8\r"
        f"PID|1||{patient}^^^DEMO^MR||Bench^Mark||19660101|F|||1 Street^^Town^^10000||0221-555\r"
        f"PV1|1|O|NEPH^^^DEMO\rORC|RE|P{run}{number}|F{run}{number}^LIS\r"
        f"OBR|1|P{run}{number}|F{run}{number}^LIS|24362-6^Renal function panel^LN|||{at}|||||||||||||||{at}||CH|F\r"
        f"OBX|1|NM|2160-0^Creatinine [Mass/volume] in Serum or Plasma^LN||{1.0 + number % 200 / 100:.2f}|mg/dL^milligram per deciliter^UCUM|0.6-1.2|H|||F|||{at}\r"
    ).encode()


class Sender(threading.Thread):
    def __init__(self, address, numbers, window, until):
        super().__init__()
        self.address, self.numbers, self.window, self.until = address, numbers, window, until
        self.times, self.refused, self.trouble = [], 0, None

    def run(self):
        try:
            self.send()
        except OSError as error:
            self.trouble = error

    def send(self):
        with socket.create_connection(self.address, timeout=30) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent, held = [], b""
            while True:
                while len(sent) < self.window and time.perf_counter() < self.until:
                    frame = b"\x0b" + message(next(self.numbers)) + b"\x1c\r"
                    sent.append(time.perf_counter())
                    line.sendall(frame)
                if not sent:
                    return
                some = line.recv(65536)
                if not some:
                    raise OSError("the gateway closed the connection")
                held += some
                *answers, held = held.split(b"\x1c\r")
                now = time.perf_counter()
                for answer in answers:
                    self.times.append(now - sent.pop(0))
                    self.refused += b"MSA|AA|" not in answer


class Numbers:
    def __init__(self):
        self.lock, self.next = threading.Lock(), 0

    def __next__(self):
        with self.lock:
            self.next += 1
            return self.next


def measure(address, numbers, connections, window):
    began = time.perf_counter()
    senders = [Sender(address, numbers, window, began + seconds) for _ in range(connections)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    took = time.perf_counter() - began
    for sender in senders:
        if sender.trouble or sender.refused:
            sys.exit(f"not all was acknowledged: {sender.refused} refused, {sender.trouble}")
    times = sorted(time for sender in senders for time in sender.times)
    at = lambda part: times[min(len(times) - 1, int(len(times) * part))] * 1000
    print(
        f"{connections:3} connections, {window:2} in flight: {len(times) / took:7.0f} messages/s; "
        f"acknowledged in {statistics.median(times) * 1000:.1f} ms (95 %: {at(0.95):.1f}, 99 %: {at(0.99):.1f}, slowest {times[-1] * 1000:.1f})"
    )
    return len(times)


def all_of_them(address):
    numbers = Numbers()
    return sum(measure(address, numbers, connections, window) for connections, window in ((1, 1), (8, 1), (32, 1), (1, 16), (4, 16)))


if len(sys.argv) > 2:
    host, port = sys.argv[2].rsplit(":", 1)
    all_of_them((host, int(port)))
    sys.exit()
folder = tempfile.TemporaryDirectory(prefix="nephrogate-mllp.", dir=os.environ.get("BENCH_STORE"))
file = pathlib.Path(folder.name) / "config.json"
feed = {"name": "lab", "note": "bench", "mllp": {"listen": "127.0.0.1:0"}}
file.write_text(json.dumps({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": site, "note": "bench", "feeds": [feed]}]}))
gate = subprocess.Popen([binary, "serve", "--config", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    base = re.search(r"http://\S+", gate.stdout.readline())[0]
    port = int(re.search(r"HL7 v2 at \S+:(\d+)", gate.stdout.readline())[1])
    sent = all_of_them(("127.0.0.1", port))
    with urllib.request.urlopen(f"{base}/api/sites/{site}/conservation") as answer:
        counts = json.load(answer)
    # Each says its result; the first of each patient also who that is.
    patients = min(20000, sent)
    assert counts["difference"] == 0 and counts["rows_agree"], counts
    assert counts["dispositions"]["applied"] == counts["received"] == 2 * sent + patients, (counts, sent)
    print(f"{sent} messages were sent and acknowledged; the gateway holds as many, with their results")
finally:
    gate.terminate()
    gate.wait()
