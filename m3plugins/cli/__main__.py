"""`python -m m3plugins.cli`."""

from m3plugins.cli import main

main()
