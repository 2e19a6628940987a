import base64
import os
import shutil
import socket
import subprocess
import sys
import threading
import traceback
from dataclasses import replace

import grpc
import pymilvus
import pytest
from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from m3plugins import Document
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError, lifecycle
from m3plugins_milvus.client import connect, writer_lock
from m3plugins_milvus.collection import Collection
from tests.core.encoding.forks import in_child
from tests.milvus.gateway import gateway
from tests.tiny import random_documents

OPEN_IT = """
import sys
from m3plugins_milvus.client import connect
try:
    connect(sys.argv[1]).close()
except Exception as error:
    print(type(error).__name__, error)
else:
    print("opened")
"""


def in_another_process(uri, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OPEN_IT, str(uri)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_a_second_process_is_told_who_has_the_file_until_it_is_closed(create, tmp_path):
    index, other = create("one"), create("two")
    refused = in_another_process(tmp_path / "m3.db")
    assert refused.stdout.startswith("MilvusIndexError cannot open ")
    assert "another process has it open" in refused.stdout
    assert "Traceback" not in refused.stderr
    index.close()
    other.upsert(random_documents(2))  # closing one does not take the file from the other
    other.close()
    assert in_another_process(tmp_path / "m3.db").stdout.strip() == "opened"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_end_of_a_forked_process_does_not_end_its_parents_lite_nor_free_the_file(create, tmp_path):
    index = create()
    in_child(server_manager_instance.release_all)  # as at its exit, if it has one
    assert index.upsert([Document(id="a", text="a fox")]).written == 1
    assert "another process has it open" in in_another_process(tmp_path / "m3.db").stdout


def test_a_file_that_someone_else_opened_stays_open(create, tmp_path):
    theirs = MilvusClient(str(tmp_path / "m3.db"))
    create().close()
    assert theirs.list_collections()
    theirs.close()
    server_manager_instance.release_server(str(tmp_path / "m3.db"))


@pytest.mark.parametrize(
    ("uri", "error"), [("m3.sqlite", r"ends in \.db"), ("no/such/folder/m3.db", "create .* first")]
)
def test_paths_that_lite_cannot_have_are_refused(encoder, tmp_path, uri, error):
    with pytest.raises(ValueError, match=error):
        MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / uri)


@pytest.mark.parametrize("uri", ["http://me:se%23cret@127.0.0.1:9/docs", "https://me:se%23cret@127.0.0.1:9"])
def test_a_server_that_is_not_there_is_one_clear_error_without_the_password(uri, capfd, caplog):
    with pytest.raises(MilvusIndexError, match="cannot open https?://127.0.0.1:9") as raised:
        connect(uri, timeout=1)
    told = "".join(traceback.format_exception(raised.value)) + capfd.readouterr().err + caplog.text
    assert "cret" not in told
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for_forever():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(MilvusIndexError, match="cannot open"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=1)


@pytest.mark.parametrize(
    ("uri", "token", "sent"),
    [
        ("http://{}", None, None),
        ("http://{}", "me:se#cret", "me:se#cret"),
        ("http://{}", "an-api-key", "an-api-key"),
        ("http://me:se%23cret@{}", None, "me:se#cret"),
        ("http://me:se%23cret@{}/default", "other:one", "other:one"),
        ("tcp://me:se%23cret@{}/default/", None, "me:se#cret"),
        ("HTTP://an-api-key@{}", None, "an-api-key"),
    ],
)
def test_credentials_go_to_the_server_and_nowhere_else(tmp_path, uri, token, sent):
    with gateway(tmp_path / "m3.db") as server:
        connection = connect(uri.format(server.uri.removeprefix("http://")), token)
        assert connection.client.list_collections() == []
        connection.close()
    expected = base64.b64encode(sent.encode()).decode() if sent else None
    assert {metadata.get("authorization") for method, metadata in server.seen if method != "Connect"} == {expected}
    assert "cret" not in repr(connection) and "api" not in repr(connection)


def test_the_database_is_the_one_in_the_uri_or_the_one_that_is_said(tmp_path):
    with gateway(tmp_path / "m3.db") as server:
        admin = connect(server.uri)
        for name in ("one", "two"):
            admin.client.create_database(name)
        one, two = connect(f"{server.uri}/one"), connect(f"{server.uri}/one", database="two")
        one.client.create_collection("docs", dimension=2)
        assert [c.client.list_collections() for c in (one, two, admin)] == [["docs"], [], []]
        assert writer_lock(one, "docs") is not writer_lock(two, "docs")
        assert (one.uri, two.uri) == (f"{server.uri}/one", f"{server.uri}/two")
        for connection in (one, two, admin):
            connection.close()


def test_a_file_has_databases_too_and_is_free_after_the_last_of_them(tmp_path):
    path = tmp_path / "m3.db"
    whole = connect(path)
    whole.client.create_database("other")
    other = connect(path, database="other")
    assert other.uri == f"{path}/other"
    whole.close()
    assert other.client.list_collections() == []
    other.close()
    assert in_another_process(path).stdout.strip() == "opened"


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_https_checks_the_certificate(tmp_path):
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"]
    command = ["openssl", "req", "-x509", *key, "-out", "cert.pem", "-days", "1", *subject]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    certificate = (tmp_path / "cert.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([((tmp_path / "key.pem").read_bytes(), certificate)])
    with gateway(tmp_path / "m3.db", "localhost:0", credentials) as server:
        assert server.uri.startswith("https://localhost:")
        trusted = in_another_process(server.uri, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(tmp_path / "cert.pem"))
        unknown = in_another_process(server.uri)
    assert trusted.stdout.strip() == "opened"
    assert unknown.stdout.startswith(f"MilvusIndexError cannot open {server.uri}")


def test_unix_sockets_work(tmp_path):
    with gateway(tmp_path / "m3.db", f"unix:{tmp_path}/m3.sock") as server:
        connection = connect(server.uri, "me:secret")
        assert connection.client.list_collections() == []
        connection.close()


def test_a_server_that_is_back_is_found_at_once(tmp_path):
    """Channels to one address would share the time that gRPC waits after a failure, also with those of old clients."""
    with gateway(tmp_path / "m3.db") as server:
        old = connect(server.uri)
    for _ in range(2):
        with pytest.raises(MilvusIndexError), old.calls("list collections"):
            old.client.list_collections(timeout=1)
    with gateway(tmp_path / "m3.db", server.uri.removeprefix("http://")):
        connect(server.uri, timeout=1).close()
    old.close()


RATE_LIMITED = common_pb2.Status(code=8, error_code=common_pb2.RateLimit, reason="rate limit exceeded")


UNAVAILABLE = pytest.param(
    grpc.StatusCode.UNAVAILABLE,
    marks=pytest.mark.xfail(
        pymilvus.__version__ == "2.6.10", reason="it goes on using the channel that it closed; 2.6.11 does not"
    ),
)


@pytest.mark.parametrize("fault", [UNAVAILABLE, pytest.param(RATE_LIMITED, id="rate limit")])
def test_a_passing_fault_does_not_show(tmp_path, fault):
    with gateway(tmp_path / "m3.db") as server:
        connection = connect(server.uri)
        connection.client.create_collection("docs", dimension=2, consistency_level="Strong")
        docs = Collection(connection, "docs")
        answers = {"Query": milvus_pb2.QueryResults, "Insert": milvus_pb2.MutationResult}
        for method, answer in answers.items():
            wrong = answer(status=fault).SerializeToString() if fault is RATE_LIMITED else fault
            server.faults[method] = [wrong, wrong]
        docs.upsert([{"id": 1, "vector": [0.0, 1.0]}])
        assert docs.count() == 1
        assert not any(server.faults.values())
        connection.close()


def test_lite_behind_a_url_is_known_for_what_it_is(tmp_path):
    with gateway(tmp_path / "m3.db") as server:
        connection = connect(server.uri)
        assert (connection.lite, connection.capabilities.write) == (True, "insert")
        connection.close()


def test_a_server_is_sent_upserts_and_never_told_to_flush(encoder, tmp_path):
    """Milvus Lite, said to be a server: what differs is what we send."""
    with gateway(tmp_path / "m3.db") as server:
        server.faults["GetVersion"] = [milvus_pb2.GetVersionResponse(version="v2.6.4").SerializeToString()]
        documents = random_documents(5)
        with MilvusHybridIndex.create("docs", encoder=encoder, uri=server.uri) as index:
            assert index.upsert(documents).written == 5
            assert index.upsert([replace(documents[0], text="new")]).written == 1
            assert [document.text for document in index.get(["doc-0"])] == ["new"]
            assert index.count() == 5
    sent = {method for method, _ in server.seen}
    assert "Upsert" in sent
    assert not sent & {"Insert", "Flush"}


def test_an_old_server_is_refused(tmp_path):
    with gateway(tmp_path / "m3.db") as server:
        server.faults["GetVersion"] = [milvus_pb2.GetVersionResponse(version="v2.4.17").SerializeToString()]
        with pytest.raises(MilvusIndexError, match="2.5 or later .* got 2.4.17; upgrade the server"):
            connect(server.uri)


def test_a_closed_index_says_so(create, encoder):
    index = create()
    index.close()
    index.close()
    query = encoder.encode_queries(["fox"])
    calls = [
        lambda: index.upsert([]),
        lambda: index.delete(["a"]),
        lambda: index.get(["a"]),
        lambda: index.count(),
        lambda: index.scan(),
        lambda: index.candidates(query, 1),
        lambda: index.score(query, ["a"]),
        lambda: index.drop(),
        lambda: index.sweep(),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_drop_deletes_all_of_it(create, encoder, tmp_path):
    index = create()
    index.drop()
    with pytest.raises(ValueError, match="there is no index 'docs'"):
        MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db")
    again = create()
    assert again.count() == 0


def test_writers_of_one_collection_take_turns(create, encoder, tmp_path):
    first = create()
    second = MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db")
    halves = [[Document(id=f"{n}-{i}", text=f"text {i}") for i in range(40)] for n in range(2)]
    threads = [
        threading.Thread(target=index.upsert, args=(half,)) for index, half in zip((first, second), halves, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.count() == second.count() == 80
    second.close()
    assert first.count() == 80


def test_a_wrong_sparse_ranking_is_noticed(create, monkeypatch):
    search = lifecycle.Collection.search

    def reversed_scores(self, field, *arguments):
        hits = search(self, field, *arguments)
        return hits if field == "dense" else hits[:2]

    monkeypatch.setattr(lifecycle.Collection, "search", reversed_scores)
    with pytest.raises(MilvusIndexError, match="inner product"):
        create()
