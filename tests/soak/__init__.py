"""The soak: runs are submitted, trained, killed and asked about for half an hour, and every point is checked."""
