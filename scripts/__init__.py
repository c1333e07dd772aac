"""One thin command-line entry point per stage; each runs without Snakemake too."""
