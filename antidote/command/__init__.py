"""The command line `antidote`: one module per command, each with `arguments()` and `run()`; imports torch late."""
