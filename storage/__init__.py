"""What is kept: the database, the ledger of runs, the model registry, the predictions and how they are read."""
