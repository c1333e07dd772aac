# Datasets as webdataset shards, shared by all studies; which pairs serve for what in this one.


rule dataset:
    """Write one split of a dataset: shards, index, manifest."""
    output:
        manifest=f"{DATA}/{{dataset}}/{{split}}/manifest.json",
        index=f"{DATA}/{{dataset}}/{{split}}/index.parquet",
        cost=f"{DATA}/{{dataset}}/{{split}}/cost.json",
    params:
        settings=lambda w: dataset_slice(STUDY, w.dataset, w.split),
        source=lambda w: fingerprint("scripts.dataset", module("source", STUDY.sources[w.dataset].source)),
        folder=lambda w, output: Path(output.manifest).parent,
    log:
        "data/logs/{dataset}-{split}.log",
    benchmark:
        "data/logs/{dataset}-{split}.tsv"
    conda:
        "../envs/train.yaml"
    shell:
        "python {SCRIPTS}/dataset.py --name {wildcards.dataset} --split {wildcards.split}"
        " --settings {params.settings:q} --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"


rule pools:
    """Choose the pairs of every pool; no pair serves for two."""
    input:
        indexes(),
    output:
        pools=POOLS,
        counts=f"{RESULTS}/pools.json",
        cost=f"{RESULTS}/pools.cost.json",
    params:
        settings=pools_slice(STUDY),
        target=lambda w: f"--target {STUDY.file.target!r}" if STUDY.needs_target_captions() else "",
        source=fingerprint("scripts.pools"),
    log:
        f"{RESULTS}/logs/pools.log",
    benchmark:
        f"{RESULTS}/benchmarks/pools.tsv"
    conda:
        "../envs/train.yaml"
    shell:
        "python {SCRIPTS}/pools.py --settings {params.settings:q} --data {DATA} --output {output.pools}"
        " {params.target} --cost {output.cost} 2>&1 | tee {log}"
