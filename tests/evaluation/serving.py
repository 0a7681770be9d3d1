"""A server on this machine that speaks OpenAI's form."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(reply: Callable[[str], str], refusals: int = 0) -> Iterator[tuple[str, list[dict]]]:
    """The address of a server that replies to each prompt, after so many refusals; and what it was sent."""
    seen: list[dict] = []
    left = [refusals]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {"object": "list", "data": [{"id": "first"}, {"id": "second"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            if left[0]:
                left[0] -= 1
                self._send(503, {"error": {"message": "busy"}})
            else:
                message = {"role": "assistant", "content": reply(body["messages"][0]["content"])}
                self._send(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

        def _send(self, code: int, told: dict):
            data = json.dumps(told).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
