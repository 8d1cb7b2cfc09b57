"""`python -m batchpred` is the command `batchpred`."""

from batchpred.cli import main

main()
