# The trigger of each attack and seed, and the poisoned pairs as an overlay over the clean ones.


def surrogate(w):
    """A learned trigger is fitted on the clean reference, with the pairs of the inversion pool."""
    if not method("attack", STUDY.attacks[w.attack].method).learned:
        return []
    return [*files(f"{RESULTS}/clean/seed{w.seed}/model", MODEL), POOLS, *indexes("inversion")]


def surrogate_arguments(w, input):
    if not input.surrogate:
        return ""
    evaluated = STUDY.evaluated
    return (
        f"--surrogate {Path(input.surrogate[0]).parent} --pools {POOLS} --data {DATA}"
        f" --classes {evaluated.classes} --templates {evaluated.templates}"
    )


rule trigger:
    """Make the trigger: draw its fixed parts, or fit it on a surrogate."""
    input:
        surrogate=surrogate,
    output:
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/trigger/cost.json",
    params:
        settings=lambda w: json_slice(STUDY.attacks[w.attack].trigger_settings()),
        target=STUDY.file.target,
        size=STUDY.size,
        surrogate=surrogate_arguments,
        source=lambda w: fingerprint("scripts.trigger", module("attack", STUDY.attacks[w.attack].method)),
        folder=lambda w, output: Path(output.trigger[0]).parent,
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-trigger.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-trigger.tsv"
    threads: 1
    resources:
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        "OMP_NUM_THREADS={threads} python {SCRIPTS}/trigger.py --name {wildcards.attack} --seed {wildcards.seed}"
        " --settings {params.settings:q} --target {params.target:q} --size {params.size} {params.surrogate}"
        " --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"


rule poison:
    """Draw the trigger on chosen pairs and replace their captions; only these pairs are written."""
    input:
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        pools=POOLS,
        data=indexes("poison"),
        templates=names_file("templates", STUDY.evaluated.templates),
    output:
        poison=files(f"{RESULTS}/{{attack}}/seed{{seed}}/poison", POISON),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/poison/cost.json",
    params:
        settings=lambda w: json_slice(STUDY.attacks[w.attack].poison_settings()),
        templates=STUDY.evaluated.templates,
        source=lambda w: fingerprint("scripts.poison", module("attack", STUDY.attacks[w.attack].method)),
        trigger=lambda w, input: Path(input.trigger[0]).parent,
        folder=lambda w, output: Path(output.poison[0]).parent,
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-poison.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-poison.tsv"
    threads: 1
    conda:
        "../envs/train.yaml"
    shell:
        "OMP_NUM_THREADS={threads} python {SCRIPTS}/poison.py --seed {wildcards.seed} --trigger {params.trigger}"
        " --pools {input.pools} --data {DATA} --settings {params.settings:q} --templates {params.templates:q}"
        " --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"
