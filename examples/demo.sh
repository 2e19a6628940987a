#!/bin/sh
# Index Python's own documentation into Milvus Lite, then ask it questions. Needs `m3` on the PATH: make demo.
set -eu
cd "$(dirname "$0")/.."
corpus=demo-data/corpus.jsonl
uri=demo-data/m3.db
started=$(date +%s)

rm -rf demo-data
python examples/stdlib_corpus.py "$corpus"
echo
echo "\$ m3 index $corpus --uri $uri"
m3 index "$corpus" --uri "$uri"

ask() {
    echo
    echo "\$ m3 search \"$1\" --uri $uri -k 3 --explain"
    m3 search "$1" --uri "$uri" -k 3 --explain
}

ask "remove a folder and all that is in it"
ask "wait until several coroutines are done"
ask "how far do values lie from their mean"
ask "RFC 2047"
ask "print an object so that a human can read it"

echo
echo "done in $(($(date +%s) - started)) s; ask your own: m3 search \"...\" --uri $uri"
