# Every defense on every backdoored model. It gets the model and the data of its access level, never the trigger.

# Files that a defense may add to its model folder; Snakemake fixes a rule's outputs, so there is a rule for each.
SUSPICIOUS = ["suspicious.json"]


rule defend:
    """Run one defense on one backdoored model."""
    input:
        model=files(f"{RESULTS}/{{attack}}/seed{{seed}}/model", MODEL),
        pools=lambda w: pool_files(*defense_pools(w)),
        data=lambda w: indexes(*defense_pools(w)),
        names=defense_names,
        poison=defense_poison,
        scorer=scorer,
    output:
        model=files(
            f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model",
            [*MODEL, "card.json", "train.jsonl"],
        ),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model/cost.json",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-{{defense}}-model.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-{{defense}}-model.tsv"
    wildcard_constraints:
        attack=alternatives(ON_TRAINING),
        defense=defenses_with([]),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=GPU,
        workers=2,
        in_memory_mb=4096,
    params:
        settings=lambda w: json_slice(STUDY.defenses[w.defense].model_dump(mode="json", exclude={"label"})),
        source=lambda w: fingerprint("scripts.defend", module("defense", STUDY.defenses[w.defense].method))
        + words(defense_names(w)),
        suspicious=lambda w, input: Path(input.model[0]).parent,
        data=defense_arguments,
        folder=lambda w, output: Path(output.model[0]).parent,
        work=lambda w: f"{RESULTS}/work/{w.attack}-seed{w.seed}-{w.defense}",
    shell:
        "OMP_NUM_THREADS={threads} python -m scripts.defend --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.suspicious} {params.data}"
        " --work {params.work} --output {params.folder} --cost {output.cost}"
        " --processes {resources.gpu} --workers {resources.workers} --in-memory-mb {resources.in_memory_mb} 2>&1 | tee {log}"


use rule defend as defend_with_adapter with:
    output:
        model=files(
            f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model",
            [*MODEL, "card.json", "train.jsonl", *ADAPTER],
        ),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model/cost.json",
    wildcard_constraints:
        attack=alternatives(ON_TRAINING),
        defense=defenses_with(ADAPTER),


use rule defend as defend_with_finding with:
    output:
        model=files(
            f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model",
            [*MODEL, "card.json", "train.jsonl", *SUSPICIOUS],
        ),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model/cost.json",
    wildcard_constraints:
        attack=alternatives(ON_TRAINING),
        defense=defenses_with(SUSPICIOUS),
