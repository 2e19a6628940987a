"""The least that a user of the enricher must be allowed to do, on a node with security."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from elasticsearch import Elasticsearch

from m3plugins import HybridRetriever, M3Encoder
from m3plugins_elasticsearch import AttachedIndex, ElasticsearchIndexError
from m3plugins_elasticsearch.enricher import Enricher
from tests.elasticsearch.enricher.conftest import Owner
from tests.elasticsearch.node import SECURITY, Node, archive

pytestmark = pytest.mark.slow

PASSWORD = "secret"
NAME = "articles"
PLACES = (NAME, f"m3-enricher.{NAME}", f"m3-dead-letters.{NAME}")
ADVISED = {(place, right) for place in PLACES for right in ("manage", "read", "write")}
ADVISED |= {(f"m3-write.{place}", right) for place in PLACES for right in ("manage", "write")}
ROLES = {"advised": ADVISED, **{f"no {right} on {place}": ADVISED - {(place, right)} for place, right in ADVISED}}
USERS = {role.replace(" ", "_"): rights for role, rights in ROLES.items()}


@pytest.fixture(scope="module")
def owner() -> Iterator[Owner]:
    """On a node of these tests' own, where each role has a user of its name."""
    node = Node(archive(), SECURITY)
    roles = {
        role: {"indices": [{"names": [place], "privileges": [right]} for place, right in sorted(rights)]}
        for role, rights in USERS.items()
    }
    try:
        node.add_users(PASSWORD, {role: role for role in roles}, json.dumps(roles))
        url = node.start().url
        with Elasticsearch(url, basic_auth=("admin", PASSWORD)) as client:
            yield Owner(client, url, NAME)
    finally:
        node.stop()


@pytest.fixture(autouse=True)
def documents(owner: Owner) -> Iterator[None]:
    """Some texts and something that is none."""
    owner.make(mappings={"properties": {"body": {"type": "geo_point", "ignore_malformed": True}}})
    owner.fill(5)
    owner.put("none", body={"lat": 1.0, "lon": 2.0})
    yield
    for place in PLACES:
        owner.client.indices.delete(index=place, ignore_unavailable=True)


def enrich(owner: Owner, encoder: M3Encoder, user: str) -> None:
    """Everything that an enricher does."""
    options = {"encoder": encoder, "fields": {"text": "body"}, "uri": owner.url, "token": f"{user}:{PASSWORD}"}
    with AttachedIndex.attach(NAME, **options) as index:
        enricher = Enricher(index)
        report = enricher.run_once()
        assert (report.enriched, report.dead_letters) == (5, 1)
        owner.client.delete(index=NAME, id="none")
        assert enricher.run_once(anew=True).dead_letters == 0
        assert enricher.verify().complete
        assert len(HybridRetriever(index).search("fox")) == 5


def test_the_advised_privileges_are_enough(owner, encoder):
    enrich(owner, encoder, "advised")


@pytest.mark.parametrize("user", sorted(USERS.keys() - {"advised"}))
def test_without_one_of_them_it_says_so(owner, encoder, user):
    with pytest.raises(ElasticsearchIndexError, match="is unauthorized for user"):
        enrich(owner, encoder, user)
