# Every defense on every backdoored model. A defense gets the model and the data of its access level, never the trigger.


rule defend:
    """Run one defense on one backdoored model."""
    input:
        **layout.inputs("model", "backdoored_model"),
        pools=jobs.defense_pools,
        data=jobs.defense_pairs,
        names=jobs.defense_names,
        poison=jobs.defense_poison,
        scorer=jobs.scorer,
    output:
        **layout.outputs("defend"),
    log:
        layout.log("defend"),
    wildcard_constraints:
        attack=alternatives(jobs.on_training),
        defense=alternatives(jobs.naming(suspicious=False)),
    priority: longest_first.defense
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=jobs.defense_settings,
        source=jobs.defense_source,
        model=subpath(input.model, parent=True),
        options=jobs.defense_options,
        folder=subpath(output.weights, parent=True),
        work=layout.work("defend"),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm defend --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.model:q} {params.options}"
        " --work {params.work:q} --output {params.folder:q} --cost {output.cost:q}"
        " --processes {resources.gpu} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log:q}"


use rule defend as defend_with_finding with:
    # For defenses that also name suspicious pairs: a separate rule, since the outputs of a Snakemake rule are fixed.
    output:
        **layout.outputs("defend"),
        **layout.outputs("finding"),
    wildcard_constraints:
        attack=alternatives(jobs.on_training),
        defense=alternatives(jobs.naming(suspicious=True)),


use rule defend as defend_clean with:
    # The clean reference under the same defense: a control of persistence.
    input:
        **layout.inputs("model", "clean_model"),
        pools=jobs.defense_pools,
        data=jobs.defense_pairs,
        names=jobs.defense_names,
        scorer=jobs.scorer,
    output:
        **layout.outputs("defend_clean"),
    log:
        layout.log("defend_clean"),
    wildcard_constraints:
        defense=alternatives(STUDY.clean_defenses),
    params:
        settings=jobs.defense_settings,
        source=jobs.defense_source,
        model=subpath(input.model, parent=True),
        options=jobs.defense_options,
        folder=subpath(output.weights, parent=True),
        work=layout.work("defend_clean"),
