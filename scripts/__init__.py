"""One thin command-line entry point per stage; each script also runs without Snakemake."""
