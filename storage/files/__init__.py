"""Files as a source: found under a path, on this machine or in object storage, and read as Arrow batches."""
