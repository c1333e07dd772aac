"""File names of the folder of poisoned pairs."""

TAR, MANIFEST = "poisoned.tar", "manifest.parquet"
