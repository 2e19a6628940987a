"""`m3 serve`: it listens where it may, answers, and ends when it is told to, with everything answered."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from m3plugins.cli.app import run

pytest.importorskip("uvicorn", reason="the service needs m3plugins[serve]")


@pytest.fixture
def process(checkpoint):
    command = [sys.executable, "-m", "m3plugins.cli", "serve", "--model", str(checkpoint), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def address(process) -> str:
    for line in process.stderr:
        if '"serves"' in line:
            return json.loads(line)["at"]
    raise AssertionError("it ended before it listened")


def test_told_to_end_it_answers_what_it_accepted(process):
    at = address(process)
    rest = threading.Thread(target=process.stderr.read)
    rest.start()
    with httpx.Client(base_url=at, timeout=60, transport=httpx.HTTPTransport(retries=5)) as client:
        assert client.post("/v1/encode", json={"input": "a fox"}).status_code == 200
        with ThreadPoolExecutor(8) as pool:
            body = {"input": [f"a fox and {number} dogs" for number in range(200)], "heads": ["dense"]}
            asked = [pool.submit(client.post, "/v1/encode", json=body) for _ in range(4)]
            while not (queued := client.get("/metrics").text.partition("\nm3_queued_texts ")[2].split()[0]):
                pass
            os.kill(process.pid, signal.SIGTERM)
            answers = [answer.result() for answer in asked]
    assert queued and [answer.status_code for answer in answers] == [200] * 4
    assert process.wait(60) == 0
    rest.join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached by others"),
        (["--max-texts", "9", "--max-queued", "5"], "max_queued must be at least max_texts"),
        (["--keys", "no-such-file"], "no-such-file"),
        (["--model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_loaded(arguments, message, capsys):
    assert run(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_keys_has_digests_and_names(tmp_path, capsys):
    assert run(["serve", "--new-key", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["digest"] == hashlib.sha256(made["key"].encode()).hexdigest() and len(made["key"]) >= 40
    file = tmp_path / "keys"
    file.write_text(f"{made['digest']} of the crawler\n\nplain-key\n")
    assert run(["serve", "--keys", str(file)]) == 2
    told = capsys.readouterr().err
    assert "line 2 has none" in told and "plain-key" not in told
