"""The study file, its checks, and what the workflow asks of it."""
