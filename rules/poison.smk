# The trigger of each attack and seed, and the poisoned pairs as an overlay over the clean ones.


rule trigger:
    """Make the trigger: draw its fixed parts, or fit it on a surrogate."""
    input:
        surrogate=surrogate,
        pools=fitting_pools,
        pairs=lambda w: indexes("inversion", "poison") if fitting_pools(w) else [],
        names=lambda w: NAMES if fitting_pools(w) else [],
    output:
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/trigger/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-trigger.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-trigger.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        settings=lambda w: json_slice(STUDY.attacks[w.attack].trigger_settings()),
        target=STUDY.file.target,
        size=STUDY.size,
        fitting=fitting_arguments,
        source=lambda w: fingerprint("scripts.trigger", module("attack", STUDY.attacks[w.attack].method))
        + words(NAMES if fitting_pools(w) else []),
        folder=lambda w, output: Path(output.trigger[0]).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.trigger --name {wildcards.attack} --seed {wildcards.seed}"
        " --settings {params.settings:q} --target {params.target:q} --size {params.size} {params.fitting}"
        " --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"


rule poison:
    """Draw the trigger on chosen pairs and replace their captions; only these pairs are written."""
    input:
        trigger=files(f"{RESULTS}/{{attack}}/seed{{seed}}/trigger", TRIGGER),
        pools=pool_files("poison"),
        data=indexes("poison"),
        templates=names_file("templates", STUDY.evaluated.templates),
    output:
        poison=files(f"{RESULTS}/{{attack}}/seed{{seed}}/poison", POISON),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/poison/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-poison.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-poison.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    params:
        settings=lambda w: json_slice(STUDY.attacks[w.attack].poison_settings()),
        templates=STUDY.evaluated.templates,
        source=lambda w: fingerprint("scripts.poison", module("attack", STUDY.attacks[w.attack].method))
        + words(names_file("templates", STUDY.evaluated.templates)),
        trigger=lambda w, input: Path(input.trigger[0]).parent,
        folder=lambda w, output: Path(output.poison[0]).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.poison --seed {wildcards.seed} --trigger {params.trigger}"
        " --pools {input.pools} --settings {params.settings:q} --templates {params.templates:q}"
        " --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"
