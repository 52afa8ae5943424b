#!/usr/bin/env python3
"""A Bulk Data server over a folder of NDJSON files, for benches/export.sh: every export is ready at once and holds all of them.

usage: export.py FOLDER PORT
Listens on loopback and prints "ready ADDRESS".
"""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER, PORT = sys.argv[1], int(sys.argv[2])
BASE = f"http://127.0.0.1:{PORT}"


def manifest():
    names = sorted(name for name in os.listdir(FOLDER) if name.endswith(".ndjson"))
    output = [{"type": name.split(".")[0], "url": f"{BASE}/files/{name}"} for name in names]
    return {"transactionTime": "2026-11-01T00:00:00Z", "request": f"{BASE}/fhir/$export", "requiresAccessToken": False,
            "output": output, "error": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/fhir/$export":
            self.answer(202, {"Content-Location": f"{BASE}/fhir/job"})
        elif path == "/fhir/job":
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(manifest()).encode())
        elif path.startswith("/files/"):
            with open(os.path.join(FOLDER, os.path.basename(path)), "rb") as file:
                self.send_response(200)
                self.send_header("Content-Type", "application/fhir+ndjson")
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                self.wfile.flush()
                try:
                    self.connection.sendfile(file)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # whoever took it was killed
        else:
            self.answer(404, {})

    def do_DELETE(self):
        self.answer(202, {})

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print(f"ready {BASE}/fhir", flush=True)
server.serve_forever()
