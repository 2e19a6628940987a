"""An Elasticsearch node of the tests' own, from the archive that `M3_TEST_ES_ZIP` names: 8.19 or 9.x."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import pytest
from typing_extensions import Self

SECURITY = {
    "xpack.security.enabled": "true",
    "xpack.security.autoconfiguration.enabled": "false",
    "xpack.security.http.ssl.enabled": "false",
    "xpack.security.transport.ssl.enabled": "false",
}
"""Settings of a node that asks who you are."""

JAVA = {8: 17, 9: 21}
"""The oldest Java on which a node of each major version runs."""

HEAP = "512m"
STARTING_S = 180
STOPPING_S = 60


def archive() -> Path:
    """The distribution, for tests that need a node of their own; without one they are skipped, in CI they fail."""
    if named := os.environ.get("M3_TEST_ES_ZIP"):
        return Path(named)
    reason = "needs Elasticsearch: set M3_TEST_ES_ZIP (a distribution) or, for most, M3_TEST_ES_URL (without security)"
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@contextmanager
def running() -> Iterator[tuple[str, Node | None]]:
    """The address of the node of `M3_TEST_ES_URL`, or of one started from `M3_TEST_ES_ZIP`, and then that one."""
    if url := os.environ.get("M3_TEST_ES_URL"):
        yield url, None
    else:
        with Node(archive()) as node:
            yield node.url, node


class Node:
    """One node on a free port of the loopback interface, which keeps its data and its port over restarts.

    Elasticsearch refuses to run as root, so for root it runs as `nobody`.

    Args:
        archive: The zip of a distribution.
        settings: Added to, or in place of, those here.
    """

    def __init__(self, archive: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="m3-es-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "transport.port": "0",
            "path.data": str(self.folder / "data"),
            "path.logs": str(self.folder / "logs"),
            "xpack.security.enabled": "false",
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **(settings or {}),
        }
        try:
            self._unpack(archive)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        log = self.folder / "logs" / "elasticsearch.log"
        log.unlink(missing_ok=True)
        options = {**self._settings, "http.port": str(self.port)}
        command = [str(self.home / "bin" / "elasticsearch")]
        for name, value in options.items():
            command += ["-E", f"{name}={value}"]
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if owner:
            self.folder.chmod(0o755)
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, owner.pw_uid, owner.pw_gid)
        with (self.folder / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder / "tmp",
                env={**self.environment(), "PATH": os.environ["PATH"]},
                stdout=console,
                stderr=subprocess.STDOUT,
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
            )
        deadline = time.monotonic() + STARTING_S
        while not self.port or not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "console.log").read_text(errors="replace")[-2000:]
                msg = f"Elasticsearch did not start (exit code {self._process.poll()}): {said}"
                raise RuntimeError(msg)
            time.sleep(0.2)
            if not self.port and log.exists():
                found = re.search(r"AbstractHttpServerTransport\].*publish_address \{[^}]*:(\d+)\}", log.read_text())
                self.port = int(found[1]) if found else 0
        return self

    def add_users(self, password: str, users: Mapping[str, str], roles: str) -> None:
        """Adds users of one password, "admin" among them, to a node with `SECURITY` that is not started yet.

        Args:
            password: Of all.
            users: The role of each.
            roles: The definitions, as in roles.yml.
        """
        conf = self.folder / "conf"
        for file in ("users", "users_roles", "role_mapping.yml"):
            (conf / file).touch()
        tool = [str(self.home / "bin" / "elasticsearch-users"), "useradd", "admin", "-p", password]
        environment = {**self.environment(), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(tool, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        (_, colon, hashed) = (conf / "users").read_text().strip().partition(":")
        users = {"admin": "superuser", **users}
        (conf / "users").write_text("".join(f"{user}{colon}{hashed}\n" for user in users))
        (conf / "users_roles").write_text("".join(f"{role}:{user}\n" for user, role in users.items()))
        (conf / "roles.yml").write_text(roles)

    def environment(self) -> dict[str, str]:
        """What its programs need to know."""
        return {
            "ES_JAVA_HOME": str(self._java),
            "ES_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP}",
            "ES_PATH_CONF": str(self.folder / "conf"),
            "ES_TMPDIR": str(self.folder / "tmp"),
        }

    def kill(self) -> None:
        """Kills the server as a power cut would; what it acknowledged must be there after `start`."""
        assert self._process is not None
        children = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True)
        for child in children.stdout.split():
            os.kill(int(child), signal.SIGKILL)
        self._process.kill()
        self._process.wait(STOPPING_S)

    def stop(self) -> None:
        """Ends it and deletes all it wrote."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(STOPPING_S)
                except subprocess.TimeoutExpired:
                    self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _unpack(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as contents:
            contents.extractall(self.folder)
        (unpacked,) = (child for child in self.folder.iterdir() if child.is_dir())
        self.version = tuple(map(int, re.findall(r"\d+", unpacked.name)))  # the folder is elasticsearch-9.5.3
        self._java = java_home(JAVA[self.version[0]], java_homes())
        self.home = unpacked.rename(self.folder / "home")
        for script in [*(self.home / "bin").iterdir(), *self.home.glob("modules/*/bin/*"), *self.home.glob("lib/**/*")]:
            script.chmod(0o755)
        for name in ("conf", "data", "logs", "tmp"):
            (self.folder / name).mkdir()
        (self.folder / "conf" / "elasticsearch.yml").touch()
        for name in ("jvm.options", "log4j2.properties"):
            shutil.copy(self.home / "config" / name, self.folder / "conf")

    def _answers(self) -> bool:
        ready = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=30s"
        try:
            with urllib.request.urlopen(ready, timeout=40) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as err:
            return err.code == 401  # with security
        except OSError:
            return False


def java_homes() -> Iterator[Path]:
    """The homes of the Javas of this machine: first those that the environment names, then those that are installed."""
    yield from (Path(home) for name in ("ES_JAVA_HOME", "JAVA_HOME") if (home := os.environ.get(name)))
    if java := shutil.which("java"):
        yield Path(java).resolve().parent.parent
    for pattern in ("/usr/lib/jvm/*", "/Library/Java/JavaVirtualMachines/*/Contents/Home"):
        yield from (Path(home) for home in sorted(glob(pattern)))


def java_home(least: int, homes: Iterable[Path]) -> Path:
    """The first of these Javas that is new enough.

    Raises:
        RuntimeError: If none is.
    """
    found: dict[Path, int] = {}
    for home in homes:
        if (home / "bin" / "java").exists():
            found[home] = java_version(home)
            if found[home] >= least:
                return home
    seen = ", ".join(f"{version} in {home}" for home, version in found.items()) or "none"
    msg = f"this Elasticsearch needs Java {least} or newer; install one, or name its home in JAVA_HOME; found: {seen}"
    raise RuntimeError(msg)


def java_version(home: Path) -> int:
    """The major version of the Java in a folder, as it says itself; 0 if it does not run."""
    done = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found and done.returncode == 0 else 0
