import subprocess
import sys
import threading

import pytest
from pymilvus import MilvusClient

from m3plugins import Document
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError, client, lifecycle
from m3plugins_milvus.client import connect
from tests.milvus.conftest import random_documents

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


def in_another_process(path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", OPEN_IT, str(path)], capture_output=True, text=True, timeout=120)


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


def test_a_file_that_someone_else_opened_stays_open(create, tmp_path):
    theirs = MilvusClient(str(tmp_path / "m3.db"))
    create().close()
    assert theirs.list_collections()
    theirs.close()
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(tmp_path / "m3.db"))


@pytest.mark.parametrize(
    ("uri", "error"), [("m3.sqlite", r"ends in \.db"), ("no/such/folder/m3.db", "create .* first")]
)
def test_paths_that_lite_cannot_have_are_refused(encoder, tmp_path, uri, error):
    with pytest.raises(ValueError, match=error):
        MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / uri)


def test_a_server_that_does_not_answer_is_a_clear_error(monkeypatch):
    with pytest.raises(MilvusIndexError, match="cannot open http://127.0.0.1:9"):
        connect("http://127.0.0.1:9", timeout=1)


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


def test_an_old_lite_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "LITE_MINIMUM", (99, 0, 0))
    with pytest.raises(MilvusIndexError, match="upgrade milvus-lite"):
        connect(tmp_path / "old.db")


def test_a_wrong_sparse_ranking_is_noticed(create, monkeypatch):
    search = lifecycle.Collection.search

    def reversed_scores(self, field, *arguments):
        hits = search(self, field, *arguments)
        return hits if field == "dense" else hits[:2]

    monkeypatch.setattr(lifecycle.Collection, "search", reversed_scores)
    with pytest.raises(MilvusIndexError, match="inner product"):
        create()
