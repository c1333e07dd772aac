# The environment of requirements.lock, for a checkout that is mounted at /antidote: docs/containers.md.
# One image for CPU and GPU, because the lock's torch for Linux serves both. apptainer.def has the same steps.
FROM python:3.12.12-slim-bookworm

# Packages in a home folder stay out of the results.
ENV PYTHONNOUSERSITE=1 \
    PYTHONPATH=/antidote \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

COPY requirements.lock /opt/antidote/requirements.lock
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /opt/antidote/requirements.lock

# A user that the image does not know has a home folder and a name. Set after the installation, since what pip leaves in a
# home folder belongs to root, and Snakemake could not write beside it.
ENV HOME=/tmp \
    USER=antidote

WORKDIR /antidote
CMD ["snakemake", "--cores", "all"]
