"""`m3 evaluate` makes an index of its own, by the folder's name."""

import json

from elasticsearch import Elasticsearch

from m3plugins.cli.app import run
from m3plugins.cli.evaluate import own_name
from tests.core.cli.engine_suite import write
from tests.tiny import SENTENCES


def test_a_folder_whose_name_no_index_can_have_is_evaluated(checkpoint, es_url, es_name, tmp_path, capsys):
    folder = tmp_path / f"{es_name.upper()} (Ünï, *)"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        write(folder / name, SENTENCES)
    (folder / "qrels" / "test.tsv").write_text("".join(f"d{i}\td{i}\t1\n" for i in range(len(SENTENCES))))
    where = ["--engine", "elasticsearch", "--uri", es_url, "--model", str(checkpoint)]
    try:
        assert run(["evaluate", str(folder), *where, "--json"]) == 0
    finally:
        with Elasticsearch(es_url) as client:
            client.indices.delete(index=own_name(folder), ignore_unavailable=True)
    assert json.loads(capsys.readouterr().out)["documents"] == len(SENTENCES)
