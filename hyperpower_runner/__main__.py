"""`python -m hyperpower_runner` is the command line."""

from hyperpower_runner.cli import main

main()
