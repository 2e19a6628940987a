"""Each document once, at its newest change, in order, in pages of bounded size."""

import pytest

from m3plugins_elasticsearch.enricher import Enricher, feed
from m3plugins_elasticsearch.enricher.feed import Feed
from m3plugins_elasticsearch.enricher.shards import positions

pytestmark = pytest.mark.elasticsearch9


@pytest.fixture
def changes(owner, attach):
    owner.make(shards=2)
    store = attach().store

    def read(after: int = -1, **options):
        """The pages of every shard, up to its checkpoint."""
        at = positions(store.connection, owner.name)
        source = Feed(store)
        source.refresh()
        return [
            page
            for shard in at.shards.values()
            for page in source.changes(shard.number, after, shard.checkpoint, **options)
        ]

    return read


def test_every_document_is_there_once_at_its_newest_change(owner, changes):
    owner.fill(40)
    for number in range(0, 40, 5):
        owner.update(str(number), body="edited")
    owner.client.delete(index=owner.name, id="7")
    found = [change for page in changes() for change in page]
    assert sorted(change.id for change in found) == sorted(str(n) for n in range(40) if n != 7)
    assert {change.id for change in found if change.source["body"] == "edited"} == {str(n) for n in range(0, 40, 5)}


def test_the_order_is_that_of_the_changes_and_a_reader_can_begin_anywhere(owner, changes):
    owner.fill(30)
    numbers = [change.seq_no for page in changes() for change in page]
    assert [n for first, n in zip(numbers, numbers[1:], strict=False) if n < first] == [0]  # where the shard changes
    assert [change.seq_no for page in changes(after=5) for change in page] == [n for n in numbers if n > 5]
    left = [change.seq_no for page in changes(without=[(2, 4)]) for change in page]
    assert left == [n for n in numbers if not 2 <= n <= 4]


def test_pages_are_bounded_by_the_size_of_the_documents(owner, changes, monkeypatch):
    monkeypatch.setattr(feed, "PAGE_BYTES", 50_000)
    owner.fill(60, text="x" * 10_000)
    assert max(len(page) for page in changes()) <= 5
    monkeypatch.setattr(feed, "PAGE_BYTES", 5_000)
    assert max(len(page) for page in changes()[3:]) <= 4


def test_our_own_fields_are_not_read_but_for_what_documents_are_compared_by(owner, changes, attach):
    owner.fill(5)
    Enricher(attach()).run_once()
    found = [change for page in changes() for change in page]
    assert all(change.source.keys() == {"body", "views"} for change in found)
    assert all(change.held == "all" and change.digest and change.model.endswith("/binary/8192") for change in found)


def test_the_children_of_nested_fields_are_no_changes(owner, changes):
    comments = {"type": "nested", "properties": {"by": {"type": "keyword"}}}
    owner.client.indices.put_mapping(index=owner.name, properties={"comments": comments})
    owner.put("1", body="a fox", comments=[{"by": "a"}, {"by": "b"}])
    assert [[change.id for change in page] for page in changes()] == [["1"]]
