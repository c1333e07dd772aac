# Zero-shot scores: the clean reference, each trigger on it (the floor), every cell of the matrix.

EVALUATION = (
    "OMP_NUM_THREADS={threads} python -m scripts.evaluate --settings {params.settings:q} --target {params.target:q}"
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
    benchmark:
        layout.benchmark("evaluate_clean")
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
    benchmark:
        layout.benchmark("floor")
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
    benchmark:
        layout.benchmark("evaluate")
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


rule rebound:
    """Attack success of the model under test during a short benign fine-tuning."""
    input:
        **layout.inputs("trigger", "trigger"),
        model=jobs.model_under_test,
        pools=jobs.pool_files("defense"),
        data=jobs.rebound_data,
        names=lambda w: jobs.names,
    output:
        **layout.outputs("rebound"),
    log:
        layout.log("rebound"),
    benchmark:
        layout.benchmark("rebound")
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=jobs.rebound_settings,
        target=jobs.target,
        source=jobs.rebound_source,
        model=jobs.folder_under_test,
        trigger=subpath(input.trigger, parent=True),
        work=layout.work("rebound"),
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.rebound --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.model:q} --trigger {params.trigger:q} --pools {input.pools:q} --target {params.target:q}"
        " --work {params.work:q} --output {output.curve:q} --cost {output.cost:q}"
        " --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log:q}"
