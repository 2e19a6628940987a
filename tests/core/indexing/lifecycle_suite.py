"""How indexes of any engine come to be, are found again, and go: by name, with a model or without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from m3plugins import Document, HybridRetriever, M3Encoder, ModelMismatchError
from m3plugins.encoding import Passages
from m3plugins.encoding.forking import ForkError
from m3plugins.indexing import IndexExistsError, IndexNotFoundError
from m3plugins.indexing.named_index import NamedIndex
from tests.core.encoding.forks import in_child
from tests.tiny import SENTENCES, random_documents, save_checkpoint

ANOTHER_PROCESS = """
import sys
from m3plugins import Document, M3Encoder
from {module} import {engine}
encoder = M3Encoder.from_pretrained(sys.argv[1])
with {engine}.open_or_create(sys.argv[2], encoder=encoder, uri=sys.argv[3]) as index:
    assert index.upsert([Document(id=sys.argv[4], text="a fox")]).failed == []
"""


def in_processes(engine: type[NamedIndex], encoder: M3Encoder, name: str, uri: object, count: int) -> list[str]:
    """Opens or makes an index in several processes at once, each of which writes a document; returns what failed."""
    code = ANOTHER_PROCESS.format(module=engine.__module__.partition(".")[0], engine=engine.__name__)
    arguments = [sys.executable, "-c", code, encoder.model, name, str(uri)]
    running = [
        subprocess.Popen([*arguments, f"doc-{number}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    ended = [(process.communicate(timeout=280)[1], process.returncode) for process in running]
    return [said[-2000:] for said, code in ended if code]


def unparented(count: int) -> list[Document]:
    """For indexes with passages as well as others."""
    return [replace(document, parent_id=None) for document in random_documents(count)]


class LifecycleSuite:
    """Subclasses have the fixtures `make` and `reopen` of an engine, `named` as in `ReembedSuite`, `where` and
    `stored`.

    The latter is where the engine's indexes are, as keyword arguments; `stored` gives, of an index, the identity as it
    is stored, in JSON values, and a function that stores another one.

    Attributes:
        engine: The index class.
    """

    engine: type[NamedIndex]

    @pytest.fixture
    def name(self, named):
        return named("docs")

    @pytest.fixture
    def opened(self, where: Mapping[str, object], encoder, name):
        """Opens or makes the index of this test, and closes it at the end."""
        made: list[NamedIndex] = []

        def open_or_create(**options):
            made.append(
                self.engine.open_or_create(options.pop("name", name), **where, **{"encoder": encoder, **options})
            )
            return made[-1]

        yield open_or_create
        for index in made:
            index.close()

    # open_or_create

    def test_the_second_time_it_is_the_index_of_the_first(self, opened):
        documents = random_documents(10)
        assert opened().upsert(documents).written == 10
        second = opened()
        assert second.upsert(documents).unchanged == 10
        assert HybridRetriever(second).search(SENTENCES[0], k=3)

    def test_options_that_are_not_given_are_those_of_the_index(self, opened, make, name):
        made = make(name, codec="int8", passages=Passages(size=40))
        made.upsert(random_documents(4))
        assert opened().identity == made.identity
        assert opened(codec="int8", passages=Passages(size=40)).count() == made.count()

    def test_a_new_index_has_the_options_given_and_the_defaults(self, opened, named):
        assert (opened().identity.codec, opened().passages) == ("binary", None)
        other = opened(name=named("other"), codec="float16", passages=Passages(size=40))
        assert (other.identity.codec, other.passages) == ("float16", Passages(size=40))

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"codec": "binary"}, "has codec='int8', got 'binary'; leave codec out to keep what it has"),
            ({"passages": Passages(size=40)}, r"has passages=None, got Passages\(size=40, overlap=0\); leave passages"),
        ],
        ids=["codec", "passages"],
    )
    def test_another_option_than_the_index_has_is_refused_with_both(self, opened, make, name, options, told):
        make(name, codec="int8").upsert(random_documents(3))
        with pytest.raises(ValueError, match=told):
            opened(**options)
        assert (opened().count(), opened().identity.codec) == (3, "int8")

    def test_an_impossible_option_makes_nothing(self, opened, where, name):
        with pytest.raises(ValueError, match="codec must be one of"):
            opened(codec="zip")
        assert name not in self.engine.list_indexes(**where)

    @pytest.mark.parametrize("weight", [torch.full((1, 32), torch.nan), torch.ones(1, 16)], ids=["nan", "narrow"])
    def test_a_model_that_cannot_encode_makes_nothing(self, opened, where, name, checkpoint, tmp_path, weight):
        folder = shutil.copytree(checkpoint, tmp_path / "broken")
        torch.save({"weight": weight, "bias": torch.ones(1)}, folder / "sparse_linear.pt")
        with pytest.raises(ValueError, match="the sparse head gave NaN|must hold a weight of shape"):
            opened(encoder=M3Encoder.from_pretrained(folder))
        assert name not in self.engine.list_indexes(**where)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_process_is_told_to_open_it_anew_and_does_not_disturb_its_parent(self, opened):
        index = opened()
        index.upsert(random_documents(5))

        def use() -> list[str]:
            verbs = (
                index.count,
                lambda: index.get(["doc-0"]),
                lambda: index.upsert(random_documents(9)),
                lambda: index.delete(["doc-0"]),
                lambda: HybridRetriever(index).search("fox"),
            )
            told = []
            for verb in verbs:
                with pytest.raises(ForkError) as refused:
                    verb()
                told.append(str(refused.value))
            index.close()
            return told

        assert all("open it again with" in said and "in this process" in said for said in in_child(use))
        assert index.count() == 5
        assert index.upsert(random_documents(9)).failed == []

    def test_threads_that_begin_at_once_have_one_index(self, opened):
        with ThreadPoolExecutor(6) as threads:
            indexes = list(threads.map(lambda _: opened(), range(6)))
        for number, index in enumerate(indexes):
            assert index.upsert([Document(id=f"{number}", text=f"fox {number}")]).written == 1
        assert {index.count() for index in indexes} == {6}

    def test_an_alias_is_opened(self, opened, named):
        first = opened()
        first.swap(named("live"))
        assert opened(name=named("live")).name == first.name

    # Models by name

    def test_another_model_is_refused_by_its_name_and_that_of_the_indexs(self, opened, encoder, tmp_path):
        opened()
        other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
        with pytest.raises(ModelMismatchError) as caught:
            opened(encoder=other)
        for one in (encoder, other):
            assert f"{one.name!r} ({one.fingerprint[:12]}…)" in str(caught.value)
            assert one.fingerprint not in str(caught.value)
        assert "open it with the model that made it" in str(caught.value)

    def test_an_index_that_recorded_no_name_says_so(self, opened, encoder, tmp_path, name):
        stored = replace(opened().identity, model="")
        assert stored == opened().identity  # a name alone makes no other index
        other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
        with pytest.raises(ModelMismatchError, match=r"of a model whose name was not recorded \([0-9a-f]{12}…\)"):
            stored.check(other, name)

    # Models by what they do

    @pytest.fixture
    def altered(self, checkpoint, tmp_path):
        """Another model of the same weights and tokenizer: one layer of two."""
        folder = shutil.copytree(checkpoint, tmp_path / "altered")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        return M3Encoder.from_pretrained(folder)

    @pytest.fixture
    def older(self, opened, stored, encoder):
        """Makes the index of this test one that an older version made and filled."""

        def make(**options):
            index = opened(**options)
            index.upsert(unparented(12))
            identity, write = stored(index)
            recorded = {"description", "probes", "former"}
            kept = {name: value for name, value in identity.items() if name not in recorded}
            before = {**kept, "fingerprint": encoder.former_fingerprint, "format": identity["format"] - 1}
            write(before)
            index.close()
            return before

        return make

    def test_the_same_weights_with_other_settings_are_refused_and_the_setting_is_named(self, opened, altered):
        opened()
        for encoder in (altered, altered.warm_up()):
            with pytest.raises(ModelMismatchError, match=r"config.json:num_hidden_layers is 1 in place of 2; open it"):
                opened(encoder=encoder)

    def test_an_index_records_what_made_it(self, opened, stored, encoder):
        identity, _ = stored(opened())
        assert identity["description"] == encoder.description
        assert identity["probes"] == encoder.probes

    def test_opening_does_not_load_the_model(self, opened, where, name, checkpoint):
        opened()
        encoder = M3Encoder.from_pretrained(checkpoint)
        with self.engine.open(name, encoder=encoder, **where) as index:
            assert index.count() == 0 and not encoder.is_loaded

    def test_a_model_that_does_something_else_is_refused_before_it_meets_the_index(
        self, opened, stored, where, name, checkpoint, encoder, altered
    ):
        index = opened()
        index.upsert(random_documents(3))
        identity, write = stored(index)
        write({**identity, "probes": dict(altered.probes)})  # as if it had been made where the same files do that
        told = "its dense embeddings of known texts differ .*, though its files are the same"
        with pytest.raises(ModelMismatchError, match=told):
            opened()
        fresh = M3Encoder.from_pretrained(checkpoint)
        with self.engine.open(name, encoder=fresh, **where) as again:
            assert again.count() == 3
            with pytest.raises(ModelMismatchError, match=told):
                again.upsert([Document(id="new", text="fox")])
            with pytest.raises(ModelMismatchError, match=told):
                HybridRetriever(again).search("fox")
            assert again.count() == 3

    def test_an_index_of_an_older_version_opens_and_is_read_without_being_written_to(self, opened, older, stored):
        before = older()
        index = opened()
        assert index.count() == 12 and HybridRetriever(index).search(SENTENCES[0])
        assert stored(index)[0] == before

    def test_an_upsert_brings_an_index_of_an_older_version_up_to_date(self, opened, older, stored, encoder):
        before = older(codec="int8", passages=Passages(size=40))
        index = opened()
        assert index.upsert(unparented(12)).unchanged == 12
        after, _ = stored(index)
        assert (after["fingerprint"], after["former"]) == (encoder.fingerprint, before["fingerprint"])
        assert (after["description"], after["probes"]) == (encoder.description, encoder.probes)
        same = {name: value for name, value in before.items() if name not in ("fingerprint", "format")}
        assert same.items() <= after.items()
        assert opened().identity == index.identity
        assert opened().upsert(unparented(13)).written == 1

    def test_an_index_of_an_older_version_is_brought_up_to_date_by_its_own_model_only(
        self, opened, older, stored, altered
    ):
        before = older()
        index = opened(encoder=altered)  # all that such an index records is the same
        with pytest.raises(ModelMismatchError, match="documents encoded again, half have a cosine of at most"):
            index.upsert([Document(id="new", text="fox")])
        assert index.count() == 12 and stored(index)[0] == before

    def test_another_model_than_that_of_an_older_versions_index_is_refused(self, opened, older, tmp_path):
        older()
        other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", hidden_size=48))
        with pytest.raises(ModelMismatchError, match="weights, heads, vocabulary, pooling, prompts or mcls differ"):
            opened(encoder=other)

    def test_an_index_of_an_older_version_that_cannot_be_brought_up_to_date_goes_on(
        self, opened, older, stored, monkeypatch
    ):
        before = older()
        index = opened()

        def refuse(*_):
            msg = "no right to do so"
            raise RuntimeError(msg)

        monkeypatch.setattr(index, "_record", refuse)
        with pytest.warns(UserWarning, match="could not be brought up to date .no right to do so."):
            assert index.upsert(unparented(13)).written == 1
        assert stored(index)[0] == before
        monkeypatch.undo()
        assert opened().upsert(unparented(13)).unchanged == 13
        assert stored(index)[0]["former"] == before["fingerprint"]

    def test_a_second_index_beside_one_of_an_older_version_goes_on_where_it_ended(self, opened, older, named, encoder):
        older()
        index = opened()
        assert index.reembed(encoder, into=named("second")).report.written == 12
        assert index.reembed(encoder, into=named("second")).report.unchanged == 12

    # Without a model

    def test_it_is_described_as_it_is(self, opened, where, encoder, named):
        index = opened(codec="int8")
        index.upsert(random_documents(7))
        index.swap(named("live"))
        info = self.engine.describe_index(named("live"), **where)
        assert info == index.describe()
        assert (info.name, info.aliases, info.codec) == (index.name, (named("live"),), "int8")
        assert (info.model, info.fingerprint) == (encoder.name, encoder.fingerprint)
        assert (info.documents, info.passages, info.passage_count) == (7, None, None)

    def test_documents_are_counted_apart_from_their_passages(self, opened):
        index = opened(passages=Passages(size=12))
        ids = ["a", "a#0", "a#0#0", "#0", "*", "b#10", "%#0", "long"]
        index.upsert(Document(id=i, text=" ".join(SENTENCES[:4] * 3)) for i in ids)
        info = index.describe()
        assert (info.documents, info.passage_count) == (len(ids), index.count())
        assert info.passage_count > 12 * len(ids)
        index.delete(["a"])
        assert index.describe().documents == len(ids) - 1

    def test_only_indexes_of_ours_are_listed_each_once(self, make, where, named):
        names = [make(named(name)).name for name in ("docs", "another", "third")]
        make(named("gone")).drop()
        index = make(named("last"))
        index.swap(named("live"))
        listed = [name for name in self.engine.list_indexes(**where) if name.startswith(named(""))]
        assert listed == sorted([*names, index.name])

    def test_it_is_dropped(self, opened, where, name):
        opened().upsert(random_documents(3))
        self.engine.drop_index(name, **where)
        assert name not in self.engine.list_indexes(**where)
        assert opened().count() == 0

    def test_what_an_alias_points_at_is_not_dropped(self, opened, where, name, named):
        index = opened()
        index.swap(named("live"))
        for one in (name, named("live")):
            with pytest.raises(ValueError, match=rf"the alias {named('live')} points at '{name}'; swap it"):
                self.engine.drop_index(one, **where)
        assert opened().count() == 0

    def test_what_is_not_there_is_neither_described_nor_dropped_nor_made(self, where, name):
        for verb in (self.engine.describe_index, self.engine.drop_index):
            with pytest.raises(IndexNotFoundError, match=f"there is no index '{name}'"):
                verb(name, **where)
        assert name not in self.engine.list_indexes(**where)

    def test_what_is_there_is_not_made_again(self, opened, make, name):
        opened().upsert(random_documents(3))
        with pytest.raises(IndexExistsError, match=f"{name}.* already; open it"):
            make(name)
        assert opened().count() == 3
