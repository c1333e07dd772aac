# Tables, plots and one self-contained page. `snakemake --report` includes the same files.

# Category and title of each file in the report of Snakemake.
SHOWN = {
    "cells": ("Tables", "every cell"),
    "costs": ("Tables", "cost by stage"),
    "table": ("Tables", "means over seeds"),
    "heatmap": ("Plots", "attack x defense"),
    "plane": ("Plots", "accuracy against ASR"),
    "persistence": ("Tables", "every persistence"),
    "persistence_plot": ("Plots", "persistence"),
    "curves": ("Plots", "training curves"),
    "gallery": ("Plots", "gallery"),
    "detections": ("Tables", "every detection"),
    "detection": ("Plots", "detector x attack"),
    "roc": ("Plots", "ROC curves of detectors"),
}


rule summary:
    """Collect all scores and costs of the study."""
    input:
        jobs.summarised,
    output:
        **{
            key: report(file, category=SHOWN[key][0], labels={"what": SHOWN[key][1]}) if key in SHOWN else file
            for key, file in jobs.summary_outputs().items()
        },
    log:
        layout.log("summary"),
    conda:
        "../envs/train.yaml"
    params:
        plan=jobs.summary_settings,
        source=fingerprint("scripts.summarise"),
        results=subpath(output.cells, ancestor=2),
        folder=subpath(output.cells, parent=True),
    shell:
        "python -m scripts.summarise --settings {params.plan:q} --results {params.results:q}"
        " --output {params.folder:q} 2>&1 | tee {log:q}"
