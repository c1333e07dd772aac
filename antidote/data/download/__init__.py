"""Downloads of datasets from tables of addresses."""
