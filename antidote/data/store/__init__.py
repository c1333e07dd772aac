"""Datasets as webdataset shards on disk."""
