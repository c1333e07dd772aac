# Datasets as webdataset shards, shared by all studies; which pairs serve for what in this one.


rule download:
    """Fetch the pictures of a table of addresses; what has arrived stays in data/downloads until somebody deletes it."""
    input:
        url_tables,
    output:
        report="data/{dataset}/{split}/download.json",
        ids="data/{dataset}/{split}/ids.parquet",
        cost="data/{dataset}/{split}/download.cost.json",
    log:
        "data/logs/{dataset}-{split}-download.log",
    benchmark:
        "data/logs/{dataset}-{split}-download.tsv"
    wildcard_constraints:
        dataset=alternatives(DOWNLOADED),
    conda:
        "../envs/download.yaml"
    threads: 8
    params:
        settings=lambda w: download_slice(STUDY, w.dataset, w.split),
        source=fingerprint("scripts.download", "antidote.data.download.worker"),
        folder="data/downloads/{dataset}/{split}",
    shell:
        "python -m scripts.download --name {wildcards.dataset} --split {wildcards.split}"
        " --settings {params.settings:q} --folder {params.folder} --processes {threads}"
        " --report {output.report} --ids {output.ids} --cost {output.cost} 2>&1 | tee {log}"


rule dataset:
    """Write one split of a dataset: shards, index, manifest."""
    input:
        names=source_names,
        download=download_report,
    output:
        manifest="data/{dataset}/{split}/manifest.json",
        index="data/{dataset}/{split}/index.parquet",
        cost="data/{dataset}/{split}/cost.json",
    log:
        "data/logs/{dataset}-{split}.log",
    benchmark:
        "data/logs/{dataset}-{split}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        settings=lambda w: dataset_slice(STUDY, w.dataset, w.split),
        source=lambda w: fingerprint("scripts.dataset", module("source", STUDY.sources[w.dataset].source))
        + words(source_names(w)),
        download=lambda w, input: option("--download", *input.download),
        folder=lambda w, output: Path(output.manifest).parent,
    shell:
        "python -m scripts.dataset --name {wildcards.dataset} --split {wildcards.split}"
        " --settings {params.settings:q} {params.download} --output {params.folder}"
        " --cost {output.cost} 2>&1 | tee {log}"


rule wordnet:
    """Fetch WordNet, for studies whose lexicon it is; it stays, whatever changes."""
    output:
        [f"data/wordnet/{name}" for name in WORDNET_FILES],
    log:
        "data/logs/wordnet.log",
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        folder=lambda w, output: Path(output[0]).parent,
    shell:
        "python -m scripts.wordnet --output {params.folder} 2>&1 | tee {log}"


rule pool:
    """Choose the pairs of one pool; no pair serves for two."""
    input:
        lambda w: indexes(w.pool),
    output:
        pool=f"{RESULTS}/pools/{{pool}}.parquet",
        counts=f"{RESULTS}/pools/{{pool}}.json",
        cost=f"{RESULTS}/pools/{{pool}}.cost.json",
    log:
        f"{RESULTS}/logs/pool-{{pool}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pool-{{pool}}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        settings=lambda w: pool_slice(STUDY, w.pool),
        target=lambda w: option("--target", pool_target(STUDY, w.pool)),
        source=fingerprint("scripts.pools"),
    shell:
        "python -m scripts.pools --settings {params.settings:q} --only {wildcards.pool} {params.target}"
        " --output {output.pool} --cost {output.cost} 2>&1 | tee {log}"
