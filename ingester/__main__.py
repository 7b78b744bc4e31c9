"""`python -m ingester` is the same as the `ingester` command."""

from ingester.cli import main

main()
