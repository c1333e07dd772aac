# Zero-shot scores: the clean reference, each trigger on it (the floor), every cell of the matrix.

EVALUATION = (
    "OMP_NUM_THREADS={threads} python -m antidote.base.warm evaluate --settings {params.settings:q} --target {params.target:q}"
    " --model {params.model:q} --study {params.study:q} --seed {wildcards.seed} --output {output.scores:q}"
    " --cost {output.cost:q} {params.options} 2>&1 | tee {log:q}"
)


rule evaluate_clean:
    """Clean accuracy of the clean reference."""
    input:
        **layout.inputs("model", "clean_model"),
        data=jobs.evaluated,
        names=lambda w: jobs.names,
    output:
        **layout.outputs("evaluate_clean"),
    log:
        layout.log("evaluate_clean"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=jobs.evaluation_settings,
        study=STUDY.name,
        target=jobs.target,
        source=jobs.clean_scores_source,
        model=subpath(input.model, parent=True),
        options=jobs.clean_options,
    shell:
        EVALUATION


rule floor:
    """Attack success of the trigger on the clean reference (no backdoor). Keeps example pictures for the gallery."""
    input:
        **layout.inputs("model", "clean_model"),
        **layout.inputs("trigger", "trigger"),
        data=jobs.evaluated,
        names=lambda w: jobs.names,
    output:
        **layout.outputs("floor"),
    log:
        layout.log("floor"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=jobs.evaluation_settings,
        study=STUDY.name,
        target=jobs.target,
        source=jobs.floor_source,
        model=subpath(input.model, parent=True),
        options=jobs.floor_options,
    shell:
        EVALUATION


rule evaluate:
    """Clean accuracy and attack success of one cell."""
    input:
        **layout.inputs("trigger", "trigger"),
        model=jobs.model_under_test,
        found=jobs.finding,
        data=jobs.evaluated,
        names=lambda w: jobs.names,
    output:
        **layout.outputs("evaluate"),
    log:
        layout.log("evaluate"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=jobs.evaluation_settings,
        study=STUDY.name,
        target=jobs.target,
        source=jobs.scores_source,
        model=jobs.folder_under_test,
        options=jobs.cell_options,
    shell:
        EVALUATION


rule persistence:
    """Attack success while the model under test is adapted to clean pairs."""
    input:
        **layout.inputs("trigger", "trigger"),
        model=jobs.model_under_test,
        pools=jobs.adaptation_pool,
        data=jobs.adaptation_data,
        names=lambda w: jobs.names,
    output:
        **layout.outputs("persistence"),
    log:
        layout.log("persistence"),
    priority: longest_first.adaptation
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=jobs.adaptation_settings,
        target=jobs.target,
        source=jobs.persistence_source,
        model=jobs.folder_under_test,
        trigger=subpath(input.trigger, parent=True),
        drawn=str(layout.drawn(attack="{attack}", seed="{seed}")),
        work=layout.work("persistence"),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm persistence --seed {wildcards.seed}"
        " --settings {params.settings:q} --model {params.model:q} --trigger {params.trigger:q}"
        " --drawn {params.drawn:q}"
        " --pools {input.pools:q} --target {params.target:q} --work {params.work:q} --output {output.curve:q}"
        " --cost {output.cost:q} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log:q}"


use rule persistence as persistence_clean with:
    # The clean reference under the same defense, measured with the same trigger.
    input:
        **layout.inputs("trigger", "trigger"),
        model=jobs.clean_under_test,
        pools=jobs.adaptation_pool,
        data=jobs.adaptation_data,
        names=lambda w: jobs.names,
    output:
        **layout.outputs("persistence_clean"),
    log:
        layout.log("persistence_clean"),
    params:
        settings=jobs.adaptation_settings,
        target=jobs.target,
        source=jobs.persistence_source,
        model=jobs.clean_folder_under_test,
        trigger=subpath(input.trigger, parent=True),
        drawn=str(layout.drawn(attack="{attack}", seed="{seed}")),
        work=layout.work("persistence_clean"),
