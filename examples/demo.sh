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

ask "temporary folder that is deleted afterwards"    # tempfile.TemporaryDirectory
ask "run an external program and capture its output" # subprocess.run
ask "find close matches for a misspelled word"       # difflib.get_close_matches
ask "is this IP address private?"                    # ipaddress.IPv4Address.is_private
ask "Ratcliff and Obershelp"                         # difflib.SequenceMatcher

echo
echo "done in $(($(date +%s) - started)) s; ask your own: m3 search \"...\" --uri $uri"
