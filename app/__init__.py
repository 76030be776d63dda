"""The web process. Never imports torch: it starts in about a second and stays small."""
