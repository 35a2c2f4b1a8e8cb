#!/usr/bin/python3
"""A gateway in Python with an internal and a public port, for tests of packaging/profiles/hermes.toml.

Both ports answer with the PID, the length of its credential, and whether its environment has the token.
"""
import http.server, json, os, signal, sys, threading

config = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
key = open(os.path.join(os.environ["CREDENTIALS_DIRECTORY"], "api-key")).read()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "key": len(key), "token": "HERMES_TOKEN" in os.environ}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
open("started", "a").write("once more\n")  # its working directory is its state
servers = [http.server.ThreadingHTTPServer((host, port), Handler) for host, port in config["listen"]]
print("listening on", config["listen"])
for s in servers:
    threading.Thread(target=s.serve_forever).start()
