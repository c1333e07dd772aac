# Datasets as webdataset shards, shared by all studies; the pools of this study.


rule download:
    """Download the pictures of a URL table; downloaded pictures stay in data/downloads until a user deletes them."""
    input:
        jobs.url_tables,
    output:
        **layout.outputs("download"),
    log:
        layout.log("download"),
    wildcard_constraints:
        dataset=alternatives(jobs.downloaded),
    conda:
        "../envs/download.yaml"
    # The image has no img2dataset; the job starts that of .venvs/download, whose Python is the machine's.
    container:
        None
    threads: 8
    params:
        settings=jobs.download_settings,
        source=fingerprint("scripts.download", "antidote.data.download.worker"),
        folder=layout.work("download"),
    shell:
        "python -m scripts.download --name {wildcards.dataset:q} --split {wildcards.split:q}"
        " --settings {params.settings:q} --folder {params.folder:q} --processes {threads}"
        " --report {output.report:q} --ids {output.ids:q} --cost {output.cost:q} 2>&1 | tee {log:q}"


rule dataset:
    """Write one split of a dataset: shards, index, manifest."""
    input:
        files=jobs.source_files,
        names=jobs.source_names,
        download=jobs.download_report,
    output:
        **layout.outputs("dataset"),
    log:
        layout.log("dataset"),
    conda:
        "../envs/train.yaml"
    params:
        settings=jobs.dataset_settings,
        source=jobs.dataset_source,
        options=jobs.dataset_options,
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m scripts.dataset --name {wildcards.dataset:q} --split {wildcards.split:q}"
        " --settings {params.settings:q} {params.options} --output {params.folder:q}"
        " --cost {output.cost:q} 2>&1 | tee {log:q}"


rule wordnet:
    """Download WordNet for studies with the lexicon `wordnet`; no change of settings or code repeats the download."""
    output:
        jobs.wordnet_files(),
    log:
        "data/logs/wordnet.log",
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m scripts.wordnet --output {params.folder:q} 2>&1 | tee {log:q}"


rule pictures:
    """Decode and resize the pictures of an evaluation set once; every cell reads the result."""
    input:
        layout.files("dataset"),
    output:
        **layout.outputs("pictures"),
    log:
        layout.log("pictures"),
    conda:
        "../envs/train.yaml"
    threads: jobs.pictures_threads
    params:
        source=fingerprint("scripts.pictures"),
        folder=subpath(output.array, parent=True),
        options=jobs.pictures_options,
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm pictures --data {params.folder:q} {params.options}"
        " --cost {output.cost:q} 2>&1 | tee {log:q}"


rule pool:
    """Choose the pairs of one pool; no pair is in two pools."""
    input:
        jobs.pool_indexes,
    output:
        **layout.outputs("pool"),
    log:
        layout.log("pool"),
    conda:
        "../envs/train.yaml"
    params:
        settings=jobs.pool_settings,
        options=jobs.pool_options,
        source=fingerprint("scripts.pools"),
    shell:
        "python -m scripts.pools --settings {params.settings:q} --only {wildcards.pool:q} {params.options}"
        " --output {output.pool:q} --cost {output.cost:q} 2>&1 | tee {log:q}"
