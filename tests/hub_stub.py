"""A server on this machine that answers the few requests with which huggingface_hub uploads a folder."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubStub:
    """The hub for one test; everything that is uploaded stays in memory.

    Args:
        refuse: whether to answer that the user may not write.
    """

    def __init__(self, refuse: bool = False) -> None:
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                stub.tokens.add(self.headers.get("Authorization", ""))
                path = self.path.partition("?")[0]
                if refuse:
                    self.answer(403, {"error": "You may not write here."})
                elif path == "/api/repos/create":
                    wanted = json.loads(body)
                    keys = ("name", "organization", "private")
                    stub.made.append({key: wanted.get(key) for key in keys})
                    self.answer(200, {"url": f"{stub.address}/me/mine", "name": "me/mine", "id": "me/mine"})
                elif path.endswith("/preupload/main"):
                    files = [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for file in json.loads(body)["files"]
                    ]
                    self.answer(200, {"files": files})
                elif path.endswith("/commit/main"):
                    for line in body.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            value = entry["value"]
                            stub.files[value["path"]] = base64.b64decode(value["content"])
                    self.answer(200, {"commitUrl": f"{stub.address}/me/mine/commit/1", "commitOid": "1" * 40})
                else:
                    self.answer(404, {"error": f"{path} is not known here"})

            def do_GET(self) -> None:
                self.answer(200, {"id": "me/mine", "sha": "1" * 40, "siblings": []})

            def answer(self, code: int, content: dict[str, Any]) -> None:
                text = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> HubStub:
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
