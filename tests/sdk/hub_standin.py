"""A stand-in of the Hugging Face hub's HTTP API, as far as huggingface_hub uploads a folder by it. It is no hub: it
answers on loopback, keeps what it is sent in memory, and says in every answer what it is."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "stand-in of the Hugging Face hub, for tests"


class HubStandIn:
    """`files` are those of a repository, as they were committed; `token` is the one that may write. `refusing`: where a
    repository is asked for, so many of the next answers have that status; `asked` and `created` are what was asked for
    and made."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.refusing: dict[str, tuple[int, int]] = {}
        self.asked: list[dict[str, Any]] = []
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self.answer(401, {"error": f"{NAME}: no such token"})
                elif self.path == "/api/repos/create":
                    made = json.loads(body)
                    hub.asked.append(made)
                    name = f"{made['organization']}/{made['name']}"
                    status, left = hub.refusing.get(name, (200, 0))
                    if left:
                        hub.refusing[name] = status, left - 1
                        self.answer(status, {"error": f"{NAME}: it was to say {status}"})
                        return
                    hub.created.append(made)
                    self.answer(200, {"url": f"{hub.url}/{name}"})
                elif self.path == "/api/validate-yaml":
                    self.answer(200, {"errors": [], "warnings": []})
                elif self.path.endswith("/preupload/main"):
                    wanted = json.loads(body)["files"]
                    modes = [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                            "shouldIgnore": False,
                        }
                        for file in wanted
                    ]
                    self.answer(200, {"files": modes})
                elif self.path.endswith("/info/lfs/objects/batch"):
                    objects = [
                        each | {"actions": {"upload": {"href": f"{hub.url}/blob/{each['oid']}", "header": {}}}}
                        for each in json.loads(body)["objects"]
                    ]
                    self.answer(200, {"transfer": "basic", "objects": objects})
                elif "/commit/main" in self.path:
                    for line in map(json.loads, body.splitlines()):
                        value = line["value"]
                        if line["key"] == "file":
                            hub.files[value["path"]] = base64.b64decode(value["content"])
                        elif line["key"] == "lfsFile":
                            hub.files[value["path"]] = hub.blobs[value["oid"]]
                    self.answer(
                        200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.url}/me/result/commit/0"}
                    )
                else:
                    self.answer(404, {"error": f"{NAME}: nothing at {self.path}"})

            def do_PUT(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                oid = self.path.rpartition("/")[2]
                assert hashlib.sha256(data).hexdigest() == oid
                hub.blobs[oid] = data
                self.answer(200, {})

            def do_GET(self) -> None:
                self.answer(401, {"error": f"{NAME}: nothing is read here"})

            def answer(self, status: int, said: dict[str, Any]) -> None:
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def version_string(self) -> str:
                return NAME

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "HubStandIn":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
