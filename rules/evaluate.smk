# Zero-shot scores: the clean reference, each trigger on it (the floor), every cell of the matrix.

EVALUATION = (
    "OMP_NUM_THREADS={threads} python {SCRIPTS}/evaluate.py --settings {params.settings:q} --target {params.target:q}"
    " --data {DATA} --model {params.model} --study {STUDY.name} --seed {wildcards.seed} --output {output.scores}"
    " --cost {output.cost}"
)


rule evaluate_clean:
    """Clean accuracy of the clean reference."""
    input:
        model=files(f"{RESULTS}/clean/seed{{seed}}/model", MODEL),
        data=evaluated_split(),
        names=names_file("classes", STUDY.evaluated.classes) + names_file("templates", STUDY.evaluated.templates),
    output:
        scores=f"{RESULTS}/clean/seed{{seed}}/none/scores.json",
        cost=f"{RESULTS}/clean/seed{{seed}}/none/cost.json",
    params:
        settings=STUDY.evaluated.slice(),
        target=STUDY.file.target,
        source=fingerprint("scripts.evaluate"),
        model=lambda w, input: Path(input.model[0]).parent,
    log:
        f"{RESULTS}/logs/clean-seed{{seed}}-scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/clean-seed{{seed}}-scores.tsv"
    threads: 1
    resources:
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        EVALUATION + " --attack clean --defense none 2>&1 | tee {log}"


rule floor:
    """The trigger on the clean reference: what it does without a backdoor. Keeps example pictures for the gallery."""
    input:
        model=files(f"{RESULTS}/clean/seed{{seed}}/model", MODEL),
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        data=evaluated_split(),
        names=names_file("classes", STUDY.evaluated.classes) + names_file("templates", STUDY.evaluated.templates),
    output:
        scores=f"{RESULTS}/{{attack}}/seed{{seed}}/floor/scores.json",
        examples=f"{RESULTS}/{{attack}}/seed{{seed}}/floor/examples.png",
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/floor/cost.json",
    params:
        settings=STUDY.evaluated.slice(),
        target=STUDY.file.target,
        source=lambda w: fingerprint("scripts.evaluate", module("attack", STUDY.attacks[w.attack].method)),
        model=lambda w, input: Path(input.model[0]).parent,
        trigger=lambda w, input: Path(input.trigger[0]).parent,
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-floor.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-floor.tsv"
    threads: 1
    resources:
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        EVALUATION + " --attack {wildcards.attack} --defense floor --trigger {params.trigger}"
        " --examples {output.examples} 2>&1 | tee {log}"


rule evaluate:
    """Clean accuracy and attack success of one cell."""
    input:
        model=model_under_test,
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        data=evaluated_split(),
        names=names_file("classes", STUDY.evaluated.classes) + names_file("templates", STUDY.evaluated.templates),
    output:
        scores=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/scores.json",
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/cost.json",
    params:
        settings=STUDY.evaluated.slice(),
        target=STUDY.file.target,
        source=lambda w: fingerprint("scripts.evaluate", module("attack", STUDY.attacks[w.attack].method)),
        model=lambda w, input: Path(input.model[0]).parent,
        trigger=lambda w, input: Path(input.trigger[0]).parent,
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-{{defense}}-scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-{{defense}}-scores.tsv"
    threads: 1
    resources:
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        EVALUATION + " --attack {wildcards.attack} --defense {wildcards.defense} --trigger {params.trigger}"
        " 2>&1 | tee {log}"
