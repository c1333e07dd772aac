# Tables, plots and one self-contained page. `snakemake --report` collects the same files.


rule summary:
    """Gather all scores and costs of the study."""
    input:
        clean=expand(f"{RESULTS}/clean/seed{{seed}}/none/scores.json", seed=STUDY.file.seeds),
        floors=cells(f"{RESULTS}/{{attack}}/seed{{seed}}/floor/scores.json"),
        triggers=cells(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger/trigger.json"),
        scores=cells(f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/scores.json"),
        rebounds=(
            cells(f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/rebound.json", without=FEW_SHOT)
            if STUDY.file.rebound
            else []
        ),
    output:
        cells=report(
            f"{RESULTS}/summary/cells.csv",
            category="Tables",
            labels={"what": "every cell"},
        ),
        costs=report(
            f"{RESULTS}/summary/costs.csv",
            category="Tables",
            labels={"what": "cost by stage"},
        ),
        table=report(
            f"{RESULTS}/summary/table.csv",
            category="Tables",
            labels={"what": "means over seeds"},
        ),
        metrics=f"{RESULTS}/summary/metrics.json",
        markdown=f"{RESULTS}/summary/table.md",
        heatmap=report(
            f"{RESULTS}/summary/heatmap.png",
            category="Plots",
            labels={"what": "attack x defense"},
        ),
        plane=report(
            f"{RESULTS}/summary/plane.png",
            category="Plots",
            labels={"what": "accuracy against ASR"},
        ),
        rebound=report(
            f"{RESULTS}/summary/rebound.png",
            category="Plots",
            labels={"what": "rebound"},
        ),
        curves=report(
            f"{RESULTS}/summary/curves.png",
            category="Plots",
            labels={"what": "training curves"},
        ),
        gallery=report(
            f"{RESULTS}/summary/gallery.png",
            category="Plots",
            labels={"what": "gallery"},
        ),
        page=f"{RESULTS}/summary/report.html",
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        "../envs/train.yaml"
    params:
        plan=summary_plan(STUDY),
        source=fingerprint("scripts.summarise"),
        results=lambda w, output: Path(output.cells).parents[1],
        folder=lambda w, output: Path(output.cells).parent,
    shell:
        "python -m scripts.summarise --settings {params.plan:q} --results {params.results}"
        " --output {params.folder} 2>&1 | tee {log}"
