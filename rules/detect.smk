# Every detector on every model under test: scores of the model, of its training pairs, or of test pictures.
from antidote.study.detect_jobs import DetectJobs

detecting = quick_to_inspect(DetectJobs(jobs))


rule detect:
    """Score with one detector, and compare the scores with the ground truth; the detector does not get the truth."""
    input:
        model=jobs.model_under_test,
        trigger=detecting.trigger,
        poison=detecting.poison,
        pools=detecting.pools,
        data=detecting.data,
        names=detecting.names,
        scorer=detecting.scorer,
    output:
        **layout.outputs("detect"),
    log:
        layout.log("detect"),
    priority: longest_first.detector
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=detecting.settings,
        source=detecting.source,
        model=jobs.folder_under_test,
        options=detecting.options,
        folder=subpath(output.detection, parent=True),
        work=layout.work("detect"),
    shell:
        "OMP_NUM_THREADS={threads} python -m antidote.base.warm detect --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.model:q} {params.options} --work {params.work:q} --output {params.folder:q}"
        " --cost {output.cost:q} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log:q}"


use rule detect as detect_clean with:
    # The clean reference; detectors of models must distinguish backdoored models from clean models.
    input:
        **layout.inputs("model", "clean_model"),
        pools=detecting.pools,
        data=detecting.data,
        names=detecting.names,
        scorer=detecting.scorer,
    output:
        **layout.outputs("detect_clean"),
    log:
        layout.log("detect_clean"),
    params:
        settings=detecting.settings,
        source=detecting.source,
        model=subpath(input.model, parent=True),
        options=detecting.options,
        folder=subpath(output.detection, parent=True),
        work=layout.work("detect_clean"),


use rule detect_clean as detect_population with:
    # The further clean models of the study's population; `surrogate_model` trains them.
    input:
        **layout.inputs("model", "surrogate_model"),
        pools=detecting.pools,
        data=detecting.data,
        names=detecting.names,
        scorer=detecting.scorer,
    output:
        **layout.outputs("detect_population"),
    log:
        layout.log("detect_population"),
    params:
        settings=detecting.settings,
        source=detecting.source,
        model=subpath(input.model, parent=True),
        options=detecting.options,
        folder=subpath(output.detection, parent=True),
        work=layout.work("detect_population"),
