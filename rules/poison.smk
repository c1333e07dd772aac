# The trigger of each attack and seed, and the poisoned pairs as an overlay over the clean ones.


rule trigger:
    """Make the trigger: draw the fixed parts, or fit the trigger on a surrogate."""
    input:
        surrogate=jobs.surrogate,
        pools=jobs.fitting_pools,
        pairs=jobs.fitting_pairs,
        names=jobs.fitting_names,
        given=jobs.given_files,
    output:
        **layout.outputs("trigger"),
    log:
        layout.log("trigger"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=jobs.trigger_settings,
        target=jobs.target,
        size=STUDY.size,
        options=jobs.fitting_options,
        source=jobs.trigger_source,
        folder=subpath(output.description, parent=True),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm trigger --name {wildcards.attack:q} --seed {wildcards.seed}"
        " --settings {params.settings:q} --target {params.target:q} --size {params.size} {params.options}"
        " --output {params.folder:q} --cost {output.cost:q} 2>&1 | tee {log:q}"


rule poison:
    """Draw the trigger on the chosen pairs and replace their captions; only the chosen pairs are written."""
    input:
        **layout.inputs("trigger", "trigger"),
        pools=jobs.pool_files("poison"),
        captions=jobs.caption_pools,
        data=jobs.poison_pairs,
        templates=lambda w: jobs.template_files,
    output:
        **layout.outputs("poison"),
    log:
        layout.log("poison"),
    wildcard_constraints:
        attack=alternatives(jobs.on_training),
    conda:
        "../envs/train.yaml"
    threads: 1
    params:
        settings=jobs.poison_settings,
        options=jobs.poison_options,
        templates=jobs.templates,
        source=jobs.poison_source,
        trigger=subpath(input.trigger, parent=True),
        folder=subpath(output.manifest, parent=True),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm poison --seed {wildcards.seed} --trigger {params.trigger:q}"
        " --pools {input.pools:q} {params.options} --settings {params.settings:q}"
        " --templates {params.templates:q}"
        " --output {params.folder:q} --cost {output.cost:q} 2>&1 | tee {log:q}"
