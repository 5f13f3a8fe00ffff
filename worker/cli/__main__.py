"""`python -m worker.cli` is `koner`."""

from worker.cli import main

main()
