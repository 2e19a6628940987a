"""The in-memory index does what every engine does."""

from tests.core.retrieval.bad_input_suite import BadInputSuite
from tests.core.retrieval.index_suite import IndexSuite
from tests.core.retrieval.ranking_suite import CandidatesSuite
from tests.core.retrieval.verbs_suite import VerbsSuite


class TestVerbs(VerbsSuite):
    pass


class TestBadInput(BadInputSuite):
    pass


class TestCandidates(CandidatesSuite):
    pass


class TestIndex(IndexSuite):
    pass
