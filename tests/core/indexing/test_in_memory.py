"""The in-memory index does what every engine does."""

import pytest

from m3plugins import InMemoryHybridIndex
from tests.core.indexing.bad_input_suite import BadInputSuite
from tests.core.indexing.index_suite import IndexSuite
from tests.core.indexing.races_suite import RacesSuite
from tests.core.indexing.verbs_suite import VerbsSuite
from tests.core.retrieval.ranking_suite import CandidatesSuite
from tests.tiny import random_documents


class TestVerbs(VerbsSuite):
    pass


class TestRaces(RacesSuite):
    pass


class TestBadInput(BadInputSuite):
    pass


class TestCandidates(CandidatesSuite):
    pass


class TestIndex(IndexSuite):
    pass


def test_closing_it_ends_whoever_is_writing(encoder):
    index = InMemoryHybridIndex(encoder=encoder)
    with pytest.raises(ValueError, match="this index is closed; make a new InMemoryHybridIndex"):
        index.upsert(random_documents(300), on_ack=lambda ids: index.close())


def test_an_empty_codec_is_refused_as_any_unknown_one_is(encoder):
    with pytest.raises(ValueError, match="codec must be one of .*, got ''"):
        InMemoryHybridIndex(encoder=encoder, codec="")
