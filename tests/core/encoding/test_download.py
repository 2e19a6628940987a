"""What keeps a model from being downloaded is said as it is: the hub, the access to it, or the disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.utils import _http as http

from m3plugins.encoding.hub import download

COMMIT = "0" * 40
FILE = "config.json"


class Hub(BaseHTTPRequestHandler):
    """A hub on this machine: one model, open to all, and one, "gated/model", open to none."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if "gated/model" in self.path:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if "open/model" not in self.path:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        described = {"id": "open/model", "sha": COMMIT, "siblings": [{"rfilename": FILE}]}
        tree = [{"type": "file", "path": FILE, "size": 2, "oid": "1" * 40}]
        body = json.dumps(tree if "/tree/" in self.path else described) if "/api/" in self.path else "{}"
        return self.answer(200, body.encode(), {"ETag": '"1"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        constants = {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
            monkeypatch.setattr(f"huggingface_hub.file_download.{name}", value, raising=False)  # its own before 1.0
        forget_connections()
        yield
        server.shutdown()
        forget_connections()


def forget_connections() -> None:
    """Those that huggingface_hub keeps before 1.0, with the settings of their beginning."""
    getattr(http, "reset_sessions", lambda: None)()


def test_what_the_hub_gives_is_stored(tmp_path: Path) -> None:
    assert (download("open/model") / FILE).read_text(encoding="utf-8") == "{}"


def test_a_model_that_the_hub_does_not_have_is_a_matter_of_its_name() -> None:
    with pytest.raises(FileNotFoundError, match="check the name and the network"):
        download("no/model")


def test_a_model_that_its_owner_must_grant_needs_a_login() -> None:
    with pytest.raises(FileNotFoundError, match="'gated/model': .* log in with `hf auth login`"):
        download("gated/model")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        OSError, match=r"download of 'open/model' failed: (Not a directory|File exists): '.*cache"
    ) as err:
        download("open/model")
    assert not isinstance(err.value, FileNotFoundError)
