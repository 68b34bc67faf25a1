"""Run the command line: ``python -m statetx``."""

from statetx.cli.main import main

main()
