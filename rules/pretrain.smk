# The clean reference model, and the backdoored model of each attack and seed.


rule clean_model:
    """Train the clean reference on the study's pairs, or copy the pretrained weights unchanged (0 epochs)."""
    input:
        pools=jobs.pool_files("training", "poison"),
        data=jobs.indexes("training", "poison"),
        model=jobs.initial_model,
    output:
        **layout.outputs("clean_model"),
    log:
        layout.log("clean_model"),
    conda:
        "../envs/train.yaml"
    # As of every training: another number of threads changes the rounding of sums, and so the model.
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=jobs.clean_settings,
        seed=jobs.model_seed,
        source=jobs.clean_source,
        folder=subpath(output.weights, parent=True),
        work=layout.work("clean_model"),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm pretrain --seed {params.seed}"
        " --settings {params.settings:q} --pools {input.pools:q} --work {params.work:q} --output {params.folder:q}"
        " --cost {output.cost:q}"
        " --processes {resources.gpu} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb}"
        " 2>&1 | tee {log:q}"


use rule clean_model as surrogate_model with:
    # A further clean model, for the triggers of an attacker who does not know the victim model.
    output:
        **layout.outputs("surrogate_model"),
    log:
        layout.log("surrogate_model"),
    params:
        settings=jobs.surrogate_settings,
        seed=jobs.model_seed,
        source=jobs.clean_source,
        folder=subpath(output.weights, parent=True),
        work=layout.work("surrogate_model"),


rule backdoored_model:
    """Train on the clean pairs, with the poisoned pairs as an overlay."""
    input:
        **layout.inputs("poison", "poison"),
        pools=jobs.pool_files("training", "poison"),
        data=jobs.indexes("training", "poison"),
        model=jobs.initial_model,
        start=jobs.start,
    output:
        **layout.outputs("backdoored_model"),
    log:
        layout.log("backdoored_model"),
    wildcard_constraints:
        attack=alternatives(jobs.on_training),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=jobs.backdoor_settings,
        options=jobs.start_options,
        poison=subpath(input.poison, parent=True),
        source=jobs.backdoor_source,
        folder=subpath(output.weights, parent=True),
        work=layout.work("backdoored_model"),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm pretrain --seed {wildcards.seed} --settings {params.settings:q}"
        " --pools {input.pools:q} {params.options} --poison {params.poison:q} --work {params.work:q}"
        " --output {params.folder:q} --cost {output.cost:q}"
        " --processes {resources.gpu} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log:q}"
