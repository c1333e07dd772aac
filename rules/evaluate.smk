# Zero-shot scores: the clean reference, each trigger on it (the floor), every cell of the matrix.

EVALUATION = (
    "OMP_NUM_THREADS={threads} python -m scripts.evaluate --settings {params.settings:q} --target {params.target:q}"
    " --model {params.model} --study {params.study} --seed {wildcards.seed} --output {output.scores}"
    " --cost {output.cost} {params.cell} 2>&1 | tee {log}"
)
NAMES = names_file("classes", STUDY.evaluated.classes) + names_file("templates", STUDY.evaluated.templates)


rule pictures:
    """Decode and resize the pictures of an evaluation set once; every cell reads them."""
    input:
        files("data/{dataset}/{split}", ["index.parquet", "manifest.json"]),
    output:
        array="data/{dataset}/{split}/pictures-{fit}.npy",
        description="data/{dataset}/{split}/pictures-{fit}.json",
        cost="data/{dataset}/{split}/pictures-{fit}.cost.json",
    log:
        "data/logs/{dataset}-{split}-pictures-{fit}.log",
    benchmark:
        "data/logs/{dataset}-{split}-pictures-{fit}.tsv"
    conda:
        "../envs/train.yaml"
    threads: 4
    params:
        source=fingerprint("scripts.pictures"),
        folder=lambda w, output: Path(output.array).parent,
        fit=lambda w: "--size " + " --pictures ".join(w.fit.split("-")),
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.pictures --data {params.folder} {params.fit} --cost {output.cost}"
        " 2>&1 | tee {log}"


rule evaluate_clean:
    """Clean accuracy of the clean reference."""
    input:
        model=files(f"{RESULTS}/clean/seed{{seed}}/model", MODEL),
        data=evaluated_split(),
        names=NAMES,
    output:
        scores=f"{RESULTS}/clean/seed{{seed}}/none/scores.json",
        cost=f"{RESULTS}/clean/seed{{seed}}/none/cost.json",
    log:
        f"{RESULTS}/logs/clean-seed{{seed}}-scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/clean-seed{{seed}}-scores.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=STUDY.evaluated.slice(),
        study=STUDY.name,
        target=STUDY.file.target,
        source=fingerprint("scripts.evaluate") + words(NAMES),
        model=lambda w, input: Path(input.model[0]).parent,
        cell="--attack clean --defense none",
    shell:
        EVALUATION


rule floor:
    """The trigger on the clean reference: what it does without a backdoor. Keeps example pictures for the gallery."""
    input:
        model=files(f"{RESULTS}/clean/seed{{seed}}/model", MODEL),
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        data=evaluated_split(),
        names=NAMES,
    output:
        scores=f"{RESULTS}/{{attack}}/seed{{seed}}/floor/scores.json",
        examples=f"{RESULTS}/{{attack}}/seed{{seed}}/floor/examples.png",
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/floor/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-floor.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-floor.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=STUDY.evaluated.slice(),
        study=STUDY.name,
        target=STUDY.file.target,
        source=lambda w: fingerprint("scripts.evaluate", module("attack", STUDY.attacks[w.attack].method))
        + words(NAMES),
        model=lambda w, input: Path(input.model[0]).parent,
        cell=lambda w, input, output: f"--attack {w.attack} --defense floor --trigger {Path(input.trigger[0]).parent}"
        f" --examples {output.examples}",
    shell:
        EVALUATION


rule evaluate:
    """Clean accuracy and attack success of one cell."""
    input:
        model=model_under_test,
        added=added_files,
        found=found_poison,
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        data=evaluated_split(),
        names=NAMES,
    output:
        scores=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/scores.json",
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-{{defense}}-scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-{{defense}}-scores.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=STUDY.evaluated.slice(),
        study=STUDY.name,
        target=STUDY.file.target,
        source=lambda w: fingerprint(
            "scripts.evaluate", module("attack", STUDY.attacks[w.attack].method), *model_modules(w)
        )
        + words(NAMES),
        model=lambda w, input: Path(input.model[0]).parent,
        cell=lambda w, input: f"--attack {w.attack} --defense {w.defense} --trigger {Path(input.trigger[0]).parent}"
        + (f" --poison {Path(input.found[0]).parent}" if input.found else ""),
    shell:
        EVALUATION


rule rebound:
    """A short benign fine-tuning of the model under test, and how much of the attack it brings back."""
    input:
        model=model_under_test,
        added=added_files,
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        pools=pool_files("defense"),
        data=[*indexes("defense"), *scored_split(STUDY.evaluated)],
        names=NAMES,
    output:
        curve=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/rebound.json",
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/rebound.cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-{{defense}}-rebound.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-{{defense}}-rebound.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=rebound_slice(STUDY),
        target=STUDY.file.target,
        source=lambda w: fingerprint(
            "scripts.rebound", module("attack", STUDY.attacks[w.attack].method), *model_modules(w)
        )
        + words(NAMES),
        model=lambda w, input: Path(input.model[0]).parent,
        trigger=lambda w, input: Path(input.trigger[0]).parent,
        work=lambda w: f"{RESULTS}/work/{w.attack}-seed{w.seed}-{w.defense}-rebound",
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.rebound --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.model} --trigger {params.trigger} --pools {input.pools} --target {params.target:q}"
        " --work {params.work} --output {output.curve} --cost {output.cost}"
        " --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log}"
