import pytest

from m3plugins_milvus.address import Address, is_server, server_address

ADDRESSES = {
    "http://localhost": Address("http://localhost:19530"),
    "HTTP://localhost:9/": Address("http://localhost:9"),
    "tcp://localhost": Address("tcp://localhost:19530"),
    "https://example.org/docs": Address("https://example.org:443", database="docs"),
    "https://key@example.org:19530/docs/": Address("https://example.org:19530", "key", "docs"),
    "http://me:%25%40%3A%2f@localhost": Address("http://localhost:19530", "me:%@:/"),
    "http://[::1]:9": Address("http://[::1]:9"),
    "unix:/tmp/milvus.sock": Address("unix:/tmp/milvus.sock"),
    "unix:///tmp/milvus.sock": Address("unix:///tmp/milvus.sock"),
}


@pytest.mark.parametrize(("uri", "address"), ADDRESSES.items())
def test_every_form_has_one_meaning(uri, address):
    assert is_server(uri)
    assert server_address(uri) == address


def test_arguments_go_before_the_uri():
    address = server_address("http://me:one@localhost/old", token="two", database="new")
    assert (address.token, address.database) == ("two", "new")
    assert server_address("unix:/x", "two", "new") == Address("unix:/x", "two", "new")


@pytest.mark.parametrize("path", ["m3.db", "./m3.db", "/data/m3.db", "C:\\data\\m3.db"])
def test_paths_are_no_servers(path):
    assert not is_server(path)


def test_what_may_be_shown_holds_no_token():
    address = server_address("http://me:secret@localhost/docs")
    assert address.place == "http://localhost:19530/docs"
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://me:secret@localhost",
        "http://me:se#cret@localhost:19530",
        "http://me:se/cret@localhost:19530",
        "http://me:12/secret@localhost:19530",
        "http://me:12?secret@localhost:19530",
        "http://[me:secret@localhost",
        "http://localhost:99999",
        "http://localhost:19530/a/b",
        "http://",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(uri):
    with pytest.raises(ValueError, match="as %XX, or pass the password as token") as raised:
        server_address(uri)
    error = raised.value
    assert "cret" not in f"{error} {error.__cause__}"
    assert error.__suppress_context__
