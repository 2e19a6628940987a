"""Without its extra, the package says what to install."""

from __future__ import annotations

import subprocess
import sys


def test_without_ir_measures_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['ir_measures'] = None; import m3plugins.evaluation"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'ImportError: m3plugins.evaluation needs ir-measures; pip install "m3plugins[evaluation]"' in done.stderr
