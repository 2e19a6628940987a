"""What a cluster says of itself, and what follows; its answers are put in by a proxy."""

import http.server
import threading

import pytest
from elasticsearch import Elasticsearch

from m3plugins_elasticsearch import AttachedIndex, Capabilities, ElasticsearchHybridIndex, ElasticsearchIndexError
from m3plugins_elasticsearch.capabilities import probe
from m3plugins_elasticsearch.client import connect
from tests.elasticsearch.proxy import BUSY, Fault, proxied, refusal


@pytest.fixture(scope="module")
def server(es_url):
    with proxied(es_url) as proxy:
        yield proxy


@pytest.fixture
def proxy(server):
    """Without faults of the test before."""
    server.faults.clear()
    server.seen.clear()
    return server


def about(number, **build):
    return Fault(200, {"name": "n", "version": {"number": number, **build}, "tagline": "You Know, for Search"})


def probed(proxy, token=None):
    connection = connect(proxy.url, token)
    try:
        return probe(connection)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("stated", "version"),
    [("8.19.20", (8, 19, 20)), ("9.0.0", (9, 0, 0)), ("8.20.0-SNAPSHOT", (8, 20, 0)), ("10.1", (10, 1)), ("", ())],
)
def test_every_way_to_state_a_version_is_read(proxy, stated, version):
    proxy.expect("_cluster/health", Fault(200, {"status": "green"}))
    proxy.expect("_license", Fault(200, {"license": {"type": "enterprise"}}))
    proxy.expect("/", about(stated))
    assert probed(proxy) == Capabilities(health="green", version=version, licence="enterprise")


def test_too_old_a_cluster_is_refused_and_nothing_is_made(proxy, encoder, es_name):
    proxy.expect("/", about("8.18.4"))
    with pytest.raises(ValueError, match=r"must be 8\.19 or later.*got 8\.18\.4; upgrade the cluster"):
        ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=proxy.url)
    assert not [method for method, path, _ in proxy.seen if method == "PUT"]


def test_to_too_old_a_cluster_nothing_is_attached(proxy, encoder, es_name):
    with Elasticsearch(proxy.url) as client:
        client.indices.create(index=es_name, mappings={"properties": {"body": {"type": "text"}}})
        proxy.seen.clear()
        proxy.expect("/", about("8.18.4"))
        with pytest.raises(ValueError, match=r"must be 8\.19 or later.*got 8\.18\.4; upgrade the cluster"):
            AttachedIndex.attach(es_name, encoder=encoder, uri=proxy.url, fields={"text": "body"})
        assert not [method for method, path, _ in proxy.seen if method == "PUT"]


def test_a_node_older_than_the_others_counts(proxy):
    proxy.expect("_cluster/health", Fault(200, {"status": "yellow"}))
    proxy.expect("_nodes", Fault(200, {"nodes": {"a": {"version": "9.1.0"}, "b": {"version": "8.17.3"}}}))
    proxy.expect("_license", Fault(200, {"license": {"type": "basic"}}))
    proxy.expect("/", Fault(405, {"error": "Incorrect HTTP method for uri [/]"}))
    able = probed(proxy)
    assert able.version == (8, 17, 3) and "got 8.17.3" in able.fault


def test_a_serverless_project_is_not_judged_by_the_number_it_states(proxy):
    """It states 8.11.0, whatever it is (elastic/eland#696), and has no cluster health and no licence."""
    unavailable = refusal(410, "api_not_available_exception", "not available when running in serverless mode")
    proxy.expect("_cluster/health", unavailable)
    proxy.expect("_license", unavailable)
    proxy.expect("/", about("8.11.0", build_flavor="serverless"))
    able = probed(proxy)
    assert able == Capabilities(health=None, version=(), licence=None) and able.fault is None


def test_what_a_user_may_not_ask_is_unknown(proxy):
    """With read and write on one index alone."""
    forbidden = refusal(403, "security_exception", "action [cluster:monitor/health] is unauthorized for user [u]")
    for part in ("_cluster/health", "_nodes", "_license"):
        proxy.faults[part] = [forbidden]
    proxy.expect("/", forbidden)
    assert probed(proxy) == Capabilities(health=None, version=(), licence=None)


@pytest.mark.parametrize("part", ["_cluster/health", "_license"])
def test_wrong_credentials_are_told(proxy, part):
    proxy.expect(part, refusal(401, "security_exception", "unable to authenticate user [me] for REST request [/]"))
    with pytest.raises(ElasticsearchIndexError, match="refuses the credentials; pass token") as caught:
        probed(proxy, "me:se#cret")
    assert "cret" not in str(caught.value)


def test_a_busy_cluster_is_not_taken_for_one_that_lacks_something(proxy):
    proxy.faults["_license"] = [BUSY] * 20
    with pytest.raises(ElasticsearchIndexError, match="es_rejected_execution_exception"):
        probed(proxy)


def test_what_is_no_elasticsearch_is_told(encoder):
    """Another web server answers with 200 to everything."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"<a/>")

        do_PUT = do_HEAD = do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ElasticsearchIndexError) as caught:
            ElasticsearchHybridIndex.create("docs", encoder=encoder, uri=uri)
        server.shutdown()
    assert "not Elasticsearch" in str(caught.value) and "\n" not in str(caught.value)


def test_doctor_warns_of_a_cluster_that_was_not_tested_though_a_later_one_was(proxy):
    proxy.expect("/", about("9.4.2"))
    _, cluster = ElasticsearchHybridIndex.checks(proxy.url)
    assert cluster.status == "warn" and "9.4.2" in cluster.detail and "not tested" in cluster.detail
    assert "8.19 with 9.5" in cluster.fix
