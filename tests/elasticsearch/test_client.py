"""Addresses, credentials, and what the client's errors become."""

import base64
import shutil
import ssl
import subprocess
import threading
import time
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from elasticsearch import ApiError, Elasticsearch, TransportError
from hypothesis import given
from hypothesis import strategies as st

from m3plugins_elasticsearch import AttachedIndex, ElasticsearchHybridIndex, ElasticsearchIndexError
from m3plugins_elasticsearch.client import LONGEST_PAUSE_S, _address, connect, pauses
from tests.elasticsearch.proxy import BUSY, CUT, Fault, proxied, refusal


@pytest.fixture(scope="module")
def server(es_url):
    with proxied(es_url) as proxy:
        yield proxy


@pytest.fixture
def proxy(server):
    server.faults.clear()
    server.seen.clear()
    server.headers.clear()
    return server


ADDRESSES = {
    "http://localhost": ("http://localhost:9200", ""),
    "https://localhost": ("https://localhost:443", ""),
    "HTTP://LocalHost:9201": ("http://localhost:9201", ""),
    "http://[::1]:9200": ("http://[::1]:9200", ""),
    "https://me:pw@[2001:db8::7]": ("https://[2001:db8::7]:443", "me:pw"),
    "https://me:se%23c%40r%2Fe%3At@es.example.org:9243/prefix/": (
        "https://es.example.org:9243/prefix",
        "me:se#c@r/e:t",
    ),
    "http://a-key@localhost": ("http://localhost:9200", "a-key"),
    "http://me:%F0%9F%A6%8A@localhost": ("http://localhost:9200", "me:🦊"),
    "http://10.0.0.1:80": ("http://10.0.0.1:80", ""),
}


@pytest.mark.parametrize(("uri", "expected"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses_are_read(uri, expected):
    assert _address(uri) == (*expected, {})


@pytest.mark.parametrize("option", ["ca_certs", "ssl_assert_fingerprint"])
def test_an_address_of_https_says_which_certificate_to_trust(option):
    assert _address(f"https://me:pw@host?{option}=/a%20b") == ("https://host:443", "me:pw", {option: "/a b"})
    with pytest.raises(ValueError, match="for https with"):
        _address(f"http://host?{option}=x")


characters = st.characters(exclude_categories=["Cs"])


@given(st.text(characters, min_size=1).filter(lambda text: ":" not in text), st.text(characters, min_size=1))
def test_any_user_and_password_can_be_written_in_an_address(user, password):
    uri = f"http://{quote(user, safe='')}:{quote(password, safe='')}@localhost"
    assert _address(uri) == ("http://localhost:9200", f"{user}:{password}", {})


BAD = [
    "",
    "localhost:9200",
    "es",
    "m3.db",
    "ftp://me:se#cret@localhost",
    "http://",
    "http://me:secret@",
    "http://me:se#cret@localhost",
    "http://me:se/cret@localhost",
    "http://me:se?cret@localhost",
    "http://me:secret@localhost:port",
    "http://me:secret@localhost:99999",
    "http://localhost:9200?pretty=secret",
    "http://[::1",
    "me:secret@localhost:9200",
    "http://::1:9200",
]


@pytest.mark.parametrize("uri", BAD)
def test_what_is_no_address_is_refused_without_being_shown(uri):
    with pytest.raises(ValueError, match=r"uri must be http\(s\)://\[user:password@\]host\[:port\]") as caught:
        connect(uri)
    assert "cret" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize(("given_", "got"), [({}, "neither"), ({"uri": "http://localhost", "client": 1}, "both")])
def test_either_an_address_or_a_client_is_needed(given_, got, es_url, encoder):
    client = Elasticsearch(es_url)
    options = {**given_, **({"client": client} if "client" in given_ else {})}
    verbs = [
        lambda: connect(**options),
        lambda: ElasticsearchHybridIndex.create("docs", encoder=encoder, **options),
        lambda: ElasticsearchHybridIndex.open("docs", encoder=encoder, **options),
        lambda: AttachedIndex.attach("docs", encoder=encoder, fields={"text": "t"}, **options),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match=f"give either uri or client, got {got}"):
            verb()
    client.close()


@pytest.mark.parametrize("more", [{"token": "x"}, {"options": {"ca_certs": "x"}}])
def test_a_client_has_its_own_credentials_and_options(es_url, more):
    with Elasticsearch(es_url) as client, pytest.raises(ValueError, match="leave out token and client_options"):
        connect(client=client, **more)


def basic(credentials):
    return "Basic " + base64.b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    ("user", "token", "sent"),
    [
        ("", None, None),
        ("", "me:se#c:ret", basic("me:se#c:ret")),
        ("", "an-api-key==", "ApiKey an-api-key=="),
        ("me:se%23cret@", None, basic("me:se#cret")),
        ("me:se%23cret@", "other:one", basic("other:one")),
        ("me:se%23cret@", "an-api-key", "ApiKey an-api-key"),
        ("an-api-key@", None, "ApiKey an-api-key"),
    ],
)
def test_credentials_go_to_the_server_and_nowhere_else(proxy, user, token, sent):
    connection = connect(proxy.url.replace("://", f"://{user}"), token)
    connection.client.cluster.health()
    second = connection.another()
    second.client.cluster.health()
    second.close()
    connection.client.cluster.health()  # closing the other one has not closed this one
    connection.close()
    assert {headers.get("Authorization", headers.get("authorization")) for headers in proxy.headers} == {sent}
    assert "cret" not in repr(connection) and "api-key" not in repr(connection)


def test_a_users_own_client_is_shared_and_stays_open(es_url):
    with Elasticsearch(es_url) as client:
        connection = connect(client=client)
        assert connection.another().client.transport is client.transport
        connection.another().close()
        connection.close()
        assert client.cluster.health()["status"]


def test_options_reach_the_client_and_win(proxy):
    options = {"request_timeout": 7, "headers": {"x-opaque-id": "me"}, "basic_auth": ("a", "b")}
    connection = connect(proxy.url, options=options)
    connection.client.cluster.health()
    connection.close()
    (headers,) = ({name.lower(): value for name, value in sent.items()} for sent in proxy.headers)
    assert (headers["x-opaque-id"], headers["authorization"]) == ("me", basic("a:b"))


@pytest.mark.parametrize("uri", ["http://me:se%23cret@127.0.0.1:9", "https://me:se%23cret@127.0.0.1:9"])
def test_a_server_that_is_not_there_is_one_clear_error_without_the_password(uri, encoder, capfd, caplog):
    with pytest.raises(ElasticsearchIndexError, match="no connection to Elasticsearch .*; check the address") as caught:
        ElasticsearchHybridIndex.open("docs", encoder=encoder, uri=uri)
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "cret" not in "".join(traceback.format_exception(caught.value)) + out + err + caplog.text


TOLD = [
    (Fault(401, {"error": {"type": "security_exception", "reason": "missing"}}), "refuses the credentials; pass token"),
    (
        refusal(403, "security_exception", "action [indices:data/read] is unauthorized for user [u]"),
        r"unauthorized for user \[u\]; grant this user read, write, maintenance",
    ),
    (
        refusal(403, "security_exception", "current license is non-compliant for [Reciprocal Rank Fusion (RRF)]"),
        "nothing of m3plugins needs that: search through HybridRetriever, which the Basic licence has",
    ),
    (Fault(413), "over the node's http.max_content_length"),
    (Fault(400, b"<html>a\nbalancer's page</html>"), "the answer is none of Elasticsearch's .*; check the address"),
    (Fault(400, {"error": "one\nline"}), r"one line \(HTTP 400\)"),
    (Fault(400, {"error": {"type": "x", "reason": "y" * 2000}}), "x: yyyyy"),
    (refusal(400, "index_closed_exception", "closed"), r"closed; open it with POST /INDEX/_open \(HTTP 400\)"),
    (
        refusal(403, "cluster_block_exception", "index [x] blocked by: [FORBIDDEN/8/index write (api)];"),
        r"index write \(api\)\]; lift that block of the index",
    ),
    (Fault(400, {"message": "of a cloud's gateway", "ok": False}), r"\(HTTP 400\)"),
]


@pytest.mark.parametrize(("fault", "told"), TOLD, ids=[told for _, told in TOLD])
def test_errors_are_told_in_a_line(proxy, fault, told):
    connection = connect(proxy.url)
    proxy.expect("_count", fault)
    with pytest.raises(ElasticsearchIndexError, match=told) as caught:
        connection.read("count", lambda: connection.client.count(index="x"))
    assert str(caught.value).startswith("cannot count: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    connection.close()


@pytest.mark.parametrize(
    "faults", [[CUT] * 5, [BUSY] * 5, [Fault(503)] * 5, [Fault(502), CUT, BUSY, Fault(504)]], ids=str
)
def test_a_passing_fault_of_a_read_does_not_show(proxy, faults):
    connection = connect(proxy.url)
    proxy.expect("_count", *faults, Fault(200, {"count": 7}))
    assert connection.read("count", lambda: connection.client.count(index="x"))["count"] == 7
    assert proxy.faults["_count"] == []
    connection.close()


def test_a_read_is_not_tried_forever(proxy):
    connection = replace(connect(proxy.url), waits=0.5)
    proxy.expect("_count", *[BUSY] * 100)
    with pytest.raises(ElasticsearchIndexError, match="es_rejected_execution_exception"):
        connection.read("count", lambda: connection.client.count(index="x"))
    assert 3 <= 100 - len(proxy.faults["_count"]) <= 5
    connection.close()


@pytest.mark.parametrize("fault", [BUSY, CUT], ids=["busy", "cut off"])
def test_nobody_but_we_tries_again(proxy, fault):
    """The client would at once, three times, beneath our own pauses; a user's own goes on doing so for the user."""
    proxy.faults["_count"] = [fault] * 100
    with Elasticsearch(proxy.url) as client:
        for connection in (connect(proxy.url), connect(client=client)):
            before = len(proxy.seen)
            with pytest.raises((ApiError, TransportError)):
                connection.client.count(index="x")
            assert len(proxy.seen) == before + 1
            connection.another().close()
        with pytest.raises((ApiError, TransportError)):
            client.count(index="x")
        assert len(proxy.seen) == before + 1 + 4


def test_a_client_that_is_closed_is_told_at_once(es_url):
    connection = connect(es_url)
    connection.close()
    began = time.monotonic()
    with pytest.raises(ElasticsearchIndexError, match="the client was closed meanwhile; open the index again"):
        connection.read("count", lambda: connection.client.count(index="x"))
    assert time.monotonic() - began < 1


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_that_is_not_trusted_is_told_at_once(tmp_path):
    made = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made], cwd=tmp_path, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        connection = connect(f"https://127.0.0.1:{server.server_port}")
        began = time.monotonic()
        with pytest.raises(ElasticsearchIndexError, match=r"no connection .*certificate verify failed"):
            connection.read("count", lambda: connection.client.count(index="x"))
        assert time.monotonic() - began < 1
        connection.close()
        server.shutdown()


def test_pauses_grow_and_end_in_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waited = []
    for pause in pauses(160.0):
        now += pause
        waited.append(pause)
    assert all(0.05 * 2**n <= pause <= 0.1 * 2**n for n, pause in enumerate(waited[:5]))
    assert all(LONGEST_PAUSE_S / 2 <= pause <= LONGEST_PAUSE_S for pause in waited[6:])
    assert 160 - LONGEST_PAUSE_S < now <= 160
    assert list(pauses(now)) == []


@pytest.mark.parametrize("part", ["_cluster/health", "_license", "_alias", "_settings"])
def test_a_fault_of_a_call_about_whole_indexes_does_not_show(proxy, encoder, es_name, part):
    index = ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=proxy.url)
    proxy.expect(part, CUT, BUSY)
    assert index.probe().licence is not None
    index.swap(f"{es_name}-alias")
    index.reembed(encoder, into=f"{es_name}-2").index.close()
    assert proxy.faults[part] == []
    index.close()


def test_a_read_that_is_not_answered_in_time_says_what_to_raise(proxy):
    connection = replace(connect(proxy.url, options={"request_timeout": 0.2}), waits=0.2)
    proxy.expect("_count", *[Fault(200, {"count": 1}, delay=0.5)] * 9)
    with pytest.raises(
        ElasticsearchIndexError, match="did not answer in time; raise request_timeout in client_options"
    ):
        connection.read("count", lambda: connection.client.count(index="x"))
    connection.close()


def test_the_reads_of_a_write_are_as_patient_as_the_write(proxy):
    connection = replace(connect(proxy.url, patience=20), waits=0.1)
    proxy.expect("_count", *[BUSY] * 4, Fault(200, {"count": 7}))
    assert connection.patient().read("count", lambda: connection.client.count(index="x"))["count"] == 7
    connection.close()
