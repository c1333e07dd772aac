"""Packages of the wheel: the library, and the small files in data/ as `antidote.shipped`; datasets are left out."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["antidote", "antidote.*"]), "antidote.shipped"],
    package_dir={"antidote.shipped": "data"},
)
