#!/usr/bin/python3
"""Behaves as Envoy does as far as packaging/profiles/envoy.toml goes, for tests: Envoy itself is in no Debian package.

--mode validate looks at the configuration and ends. Else it listens where the configuration says, has its admin interface on the
configuration's pipe (/ready: 503 with the state while it initializes, then 200 LIVE; POST /quitquitquit ends it), and passes
GET /ready of the listener "ready" on to that, as the configuration's route does.
"""
import http.client, http.server, os, re, signal, socket, socketserver, sys, threading, time

INITIALIZING = 1.5  # seconds
args = sys.argv[1:]
config = open(args[args.index("-c") + 1]).read()
ports = {m[1]: int(m[2]) for m in re.finditer(r"- name: (\w+)\n +enable_reuse_port: false\n +address: .*port_value: (\d+)", config)}
pipe = re.search(r"^admin:\s+address:\s+pipe: { path: ([^,]+), mode: 0o(\d+) }", config, re.M)
if not pipe or set(ports) != {"api", "ready"}:
    sys.exit("error initializing configuration: no admin pipe, or no listeners api and ready")
if "validate" in args:
    print("configuration '%s' OK" % args[args.index("-c") + 1])
    sys.exit(0)
begun = time.monotonic()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Admin(Handler):
    def address_string(self):
        return "admin"

    def do_GET(self):
        if self.path != "/ready":
            return self.answer(404, "invalid path\n")
        live = time.monotonic() - begun > INITIALIZING
        self.answer(200 if live else 503, "LIVE\n" if live else "INITIALIZING\n")

    def do_POST(self):
        if self.path == "/quitquitquit":
            self.answer(200, "OK\n")
            os._exit(0)
        self.answer(404, "invalid path\n")


class Ready(Handler):
    def do_GET(self):
        if self.path != "/ready":
            return self.answer(404, "")
        connection = http.client.HTTPConnection("admin")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(pipe[1])
        connection.request("GET", "/ready")
        got = connection.getresponse()
        self.answer(got.status, got.read().decode())

    def do_POST(self):
        self.answer(404, "")


class API(Handler):
    def do_GET(self):
        self.answer(200, '{"pid":%d}' % os.getpid())


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    pass


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if os.path.exists(pipe[1]):
    os.unlink(pipe[1])
servers = [
    UnixServer(pipe[1], Admin),
    http.server.ThreadingHTTPServer(("127.0.0.1", ports["ready"]), Ready),
    http.server.ThreadingHTTPServer(("127.0.0.1", ports["api"]), API),
]
os.chmod(pipe[1], int(pipe[2], 8))
for s in servers:
    threading.Thread(target=s.serve_forever).start()
