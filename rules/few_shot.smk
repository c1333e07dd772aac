# Attacks on few-shot support sets: the shots take the place of the poisoned pairs, and what a user trains on them over
# the frozen clean reference that of the backdoored model.


rule attack_shots:
    """Change the pictures of the support set; labels stay."""
    input:
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        surrogate=surrogate,
        pools=pool_files("shots"),
        data=indexes("shots"),
        names=names_file("classes", STUDY.evaluated.classes),
    output:
        poison=files(f"{RESULTS}/{{attack}}/seed{{seed}}/poison", POISON),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/poison/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-poison.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-poison.tsv"
    wildcard_constraints:
        attack=alternatives(FEW_SHOT),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=lambda w: json_slice(
            {k: v for k, v in STUDY.attacks[w.attack].poison_settings().items() if k not in Victim.model_fields}
        ),
        classes=STUDY.evaluated.classes,
        source=lambda w: fingerprint("scripts.attack_shots", module("attack", STUDY.attacks[w.attack].method))
        + words(names_file("classes", STUDY.evaluated.classes)),
        trigger=lambda w, input: Path(input.trigger[0]).parent,
        surrogate=lambda w, input: Path(input.surrogate[0]).parent,
        folder=lambda w, output: Path(output.poison[0]).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.attack_shots --seed {wildcards.seed} --trigger {params.trigger}"
        " --surrogate {params.surrogate} --pools {input.pools} --classes {params.classes:q}"
        " --settings {params.settings:q} --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"


rule few_shot_model:
    """Train a classifier on the attacked support set, and one on the clean one."""
    input:
        model=files(f"{RESULTS}/clean/seed{{seed}}/model", MODEL),
        pools=pool_files("shots"),
        data=indexes("shots"),
        poison=files(f"{RESULTS}/{{attack}}/seed{{seed}}/poison", POISON),
        names=names_file("classes", STUDY.evaluated.classes),
    output:
        model=files(
            f"{RESULTS}/{{attack}}/seed{{seed}}/model",
            [*MODEL, "card.json", "train.jsonl", *ADAPTER],
        ),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/model/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-model.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-model.tsv"
    wildcard_constraints:
        attack=alternatives(FEW_SHOT),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=lambda w: json_slice(STUDY.attacks[w.attack].model_dump(mode="json", include=set(Victim.model_fields))),
        classes=STUDY.evaluated.classes,
        source=fingerprint("scripts.few_shot") + words(names_file("classes", STUDY.evaluated.classes)),
        model=lambda w, input: Path(input.model[0]).parent,
        poison=lambda w, input: Path(input.poison[0]).parent,
        folder=lambda w, output: Path(output.model[0]).parent,
        work=lambda w: f"{RESULTS}/work/{w.attack}-seed{w.seed}",
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.few_shot --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.model} --pools {input.pools} --poison {params.poison} --classes {params.classes:q}"
        " --work {params.work} --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"
