# The clean reference model, and the backdoored model of each attack and seed.


rule clean_model:
    """Train the clean reference on the study's pairs, or take its pretrained weights as they are (0 epochs)."""
    input:
        pools=pool_files("training", "poison"),
        data=indexes("training", "poison"),
        model=initial_model(),
    output:
        model=files(f"{RESULTS}/clean/seed{{seed}}/model", [*MODEL, "card.json", "train.jsonl"]),
        cost=f"{RESULTS}/clean/seed{{seed}}/model/cost.json",
    log:
        f"{RESULTS}/logs/clean-seed{{seed}}-model.log",
    benchmark:
        f"{RESULTS}/benchmarks/clean-seed{{seed}}-model.tsv"
    conda:
        "../envs/train.yaml"
    threads: 2
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=training_slice(STUDY.file.model, STUDY.file.pretraining),
        seed=lambda w: int(w.seed),
        source=fingerprint("scripts.pretrain") + words(names_file("models", STUDY.file.model.name)),
        folder=lambda w, output: Path(output.model[0]).parent,
        work=lambda w: f"{RESULTS}/work/clean-seed{w.seed}",
    shell:
        # Two with `--cores 1` as well: sums of another number of threads end in other digits, and in another model.
        # Snakemake sets both variables.
        "export OMP_NUM_THREADS=$(({threads} < 2 ? 2 : {threads})); MKL_NUM_THREADS=$OMP_NUM_THREADS python -m scripts.pretrain --seed {params.seed}"
        " --settings {params.settings:q} --pools {input.pools} --work {params.work} --output {params.folder}"
        " --cost {output.cost}"
        " --processes {resources.gpu} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb}"
        " 2>&1 | tee {log}"


use rule clean_model as surrogate_model with:
    # A further clean model, for triggers of an attacker who does not know the victim.
    input:
        pools=pool_files("training", "poison"),
        data=indexes("training", "poison"),
        model=lambda w: initial_model(STUDY.file.surrogates[w.surrogate].model),
    output:
        model=files(
            f"{RESULTS}/surrogates/{{surrogate}}/seed{{seed}}/model",
            [*MODEL, "card.json", "train.jsonl"],
        ),
        cost=f"{RESULTS}/surrogates/{{surrogate}}/seed{{seed}}/model/cost.json",
    log:
        f"{RESULTS}/logs/surrogate-{{surrogate}}-seed{{seed}}-model.log",
    benchmark:
        f"{RESULTS}/benchmarks/surrogate-{{surrogate}}-seed{{seed}}-model.tsv"
    params:
        settings=lambda w: training_slice(
            STUDY.file.surrogates[w.surrogate].model, STUDY.file.surrogates[w.surrogate].pretraining
        ),
        seed=lambda w: int(w.seed) + STUDY.file.surrogates[w.surrogate].seed,
        source=lambda w: fingerprint("scripts.pretrain")
        + words(names_file("models", STUDY.file.surrogates[w.surrogate].model.name)),
        folder=lambda w, output: Path(output.model[0]).parent,
        work=lambda w: f"{RESULTS}/work/surrogate-{w.surrogate}-seed{w.seed}",


rule backdoored_model:
    """Train on the clean pairs with the poisoned ones laid over them."""
    input:
        pools=pool_files("training", "poison"),
        data=indexes("training", "poison"),
        model=initial_model(),
        poison=files(f"{RESULTS}/{{attack}}/seed{{seed}}/poison", POISON),
        start=start,
    output:
        model=files(
            f"{RESULTS}/{{attack}}/seed{{seed}}/model",
            [*MODEL, "card.json", "train.jsonl"],
        ),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/model/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-model.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-model.tsv"
    wildcard_constraints:
        attack=alternatives(ON_TRAINING),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=lambda w: training_slice(STUDY.file.model, STUDY.poisoning(w.attack), STUDY.attacks[w.attack]),
        start=lambda w, input: (f"--start {Path(input.start[0]).parent}" if input.start else ""),
        poison=lambda w, input: Path(input.poison[0]).parent,
        source=lambda w: fingerprint("scripts.pretrain", *training_modules(w))
        + words(names_file("models", STUDY.file.model.name)),
        folder=lambda w, output: Path(output.model[0]).parent,
        work=lambda w: f"{RESULTS}/work/{w.attack}-seed{w.seed}",
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.pretrain --seed {wildcards.seed} --settings {params.settings:q}"
        " --pools {input.pools} {params.start} --poison {params.poison} --work {params.work}"
        " --output {params.folder} --cost {output.cost}"
        " --processes {resources.gpu} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log}"
