# Attacks on few-shot support sets: the attacked shots replace the poisoned pairs, and a classifier that a user trains
# on the shots, over the frozen clean reference, replaces the backdoored model.


rule attack_shots:
    """Change the pictures of the support set; the labels are unchanged."""
    input:
        **layout.inputs("trigger", "trigger"),
        surrogate=jobs.surrogate,
        pools=jobs.pool_files("shots"),
        data=jobs.indexes("shots"),
        names=lambda w: jobs.class_files,
    output:
        **layout.outputs("poison"),
    log:
        layout.log("poison"),
    wildcard_constraints:
        attack=alternatives(jobs.few_shot),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=jobs.shots_settings,
        classes=jobs.classes,
        source=jobs.shots_source,
        trigger=subpath(input.trigger, parent=True),
        options=jobs.shots_options,
        folder=subpath(output.manifest, parent=True),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm attack_shots --seed {wildcards.seed} --trigger {params.trigger:q}"
        " {params.options} --pools {input.pools:q} --classes {params.classes:q} --settings {params.settings:q}"
        " --output {params.folder:q} --cost {output.cost:q} 2>&1 | tee {log:q}"


rule few_shot_model:
    """Train one classifier on the attacked support set and one on the clean support set."""
    input:
        **layout.inputs("model", "clean_model"),
        **layout.inputs("poison", "poison"),
        pools=jobs.pool_files("shots"),
        data=jobs.indexes("shots"),
        names=lambda w: jobs.class_files,
    output:
        **layout.outputs("backdoored_model"),
    log:
        layout.log("backdoored_model"),
    wildcard_constraints:
        attack=alternatives(jobs.few_shot),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=jobs.victim_settings,
        classes=jobs.classes,
        source=jobs.victim_source,
        model=subpath(input.model, parent=True),
        poison=subpath(input.poison, parent=True),
        folder=subpath(output.weights, parent=True),
        work=layout.work("backdoored_model"),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm few_shot --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.model:q} --pools {input.pools:q} --poison {params.poison:q} --classes {params.classes:q}"
        " --work {params.work:q} --output {params.folder:q} --cost {output.cost:q} 2>&1 | tee {log:q}"
