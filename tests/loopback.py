"Servers on this machine that stand in for those of the world."
import random, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nanochat_course.corpus import write_shard


class Server:
    "A server on the loopback address; `get(handler)` answers a request, and a client that leaves is no error."
    def __init__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                try: outer.get(self)
                except (BrokenPipeError, ConnectionResetError): pass
            def log_message(self, *args): pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self): return self
    def __exit__(self, *args): self.server.shutdown(); self.server.server_close()


class Raw(Server):
    "A server whose answers are functions of the handler, one for each request, the last one for ever. `seen` holds the requests' headers."
    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []
        super().__init__()

    def get(self, handler):
        self.seen.append(dict(handler.headers) | {"path": handler.path})
        self.answers[min(len(self.seen), len(self.answers)) - 1](handler)


def answer(status, body=b"", **headers):
    "An answer with this status, these headers (underscores are hyphens) and this body."
    def send(h):
        h.send_response(status)
        for k, v in headers.items(): h.send_header(k.replace("_", "-"), v(h) if callable(v) else v)
        h.end_headers()
        h.wfile.write(body(h) if callable(body) else body)
    return send


def whole(payload, etag='"v1"'): return answer(200, payload, ETag=etag, Content_Length=str(len(payload)))


class Shards(Raw):
    "A hub whose training shards differ from each other; each is held back until it is released."
    def __init__(self, folder, count=6):
        self.bodies, self.open, self.order, self.gone = {}, {}, [], set()
        for i in [*range(count), 6542]:
            name, rng = f"shard_{i:05d}.parquet", random.Random(i)
            write_shard(folder / name, [f"shard {i}, document {k}: {rng.random()}" for k in range(60)], 20)
            self.bodies[name], self.open[name] = (folder / name).read_bytes(), threading.Event()
        def send(handler):
            name = handler.path.rpartition("/")[2]
            self.open[name].wait(30)
            if name in self.gone: return answer(404)(handler)
            self.order.append(name)
            whole(self.bodies[name])(handler)
        super().__init__(send)

    def release(self, *numbers):
        for i in numbers: self.open[f"shard_{i:05d}.parquet"].set()

    def texts(self, *numbers): return [f"shard {i}, document {k}: " for i in numbers for k in range(60)]
