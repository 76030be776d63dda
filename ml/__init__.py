"""The training core. Knows tensors; knows no web, database, queue or Redis."""
