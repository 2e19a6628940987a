"""An index that an application writes to, searched with all three heads: the enricher keeps M3's vectors in step.

ELASTICSEARCH_URL names the node (8.19 or later, any licence); by default http://localhost:9200.
"""

import os
import threading
import time

from elasticsearch import Elasticsearch

from m3plugins import HybridRetriever, M3Encoder
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import AttachedIndex, Enricher

NAME = "m3-example-tickets"
TICKETS = {
    "1": {"subject": "Pump stopped", "body": "The pump runs dry and shows error E17.", "site": "Delft"},
    "2": {
        "subject": "No hot water",
        "body": "The boiler does not light, the sensor may be dirty.",
        "site": "Delft",
    },
    "3": {"subject": "Noise", "body": "The pump is loud since its bearing was changed.", "site": "Turin"},
}

application = Elasticsearch(os.environ.get("ELASTICSEARCH_URL", "http://localhost:9200"))
application.options(ignore_status=404).indices.delete(index=NAME)
application.indices.create(index=NAME, mappings={"properties": {"site": {"type": "keyword"}}})
for number, ticket in TICKETS.items():
    application.index(index=NAME, id=number, document=ticket)

encoder = M3Encoder.from_pretrained("m3-mini")  # in production: "BAAI/bge-m3"
index = AttachedIndex.attach(NAME, encoder=encoder, client=application, fields={"text": "body", "title": "subject"})
enricher = Enricher(index, poll_s=0.2)
print(enricher.run_once())  # the backfill; `m3 enrich --once` from the shell

retriever = HybridRetriever(index)
for hit in retriever.search("why does the pump not run?", k=2, filter=filters.eq("site", "Delft")):
    print(f"{hit.score:5.2f}  {hit.document.title}: {hit.text}")

# As a service (`m3 enrich --watch`) it follows what anybody writes.
stop = threading.Event()
service = threading.Thread(target=enricher.watch, args=(stop,), daemon=True)
service.start()
application.update(index=NAME, id="3", doc={"body": "The gate does not open in the rain."})
application.index(index=NAME, id="4", document={"subject": "Gate", "body": "The motor hums.", "site": "Turin"})
while enricher.verify().enriched < 4:
    time.sleep(0.2)
stop.set()
service.join()
print([hit.id for hit in retriever.search("the gate is stuck", k=2)])  # the edited ticket, and the new one

application.indices.delete(index=f"{NAME},m3-enricher.{NAME},m3-dead-letters.{NAME}", ignore_unavailable=True)
