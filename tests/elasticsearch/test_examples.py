"""The example runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "elasticsearch_enricher.py"


def test_the_enricher_follows_the_application(es_url: str):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env={**os.environ, "ELASTICSEARCH_URL": es_url},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "No hot water" in done.stdout
    assert sorted(eval(done.stdout.splitlines()[-1])) == ["3", "4"]
