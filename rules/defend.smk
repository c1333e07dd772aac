# Every defense on every backdoored model. It gets the model and the data of its access level, never the trigger.


def defense_data(w):
    access = method("defense", STUDY.defenses[w.defense].method).access
    return indexes("defense") if access == "clean-pairs" else []


rule defend:
    """Run one defense on one backdoored model."""
    input:
        model=files(f"{RESULTS}/{{attack}}/seed{{seed}}/model", MODEL),
        pools=POOLS,
        data=defense_data,
        lexicon=names_file("lexicons", STUDY.lexicon()),
    output:
        model=files(f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model", [*MODEL, "card.json", "train.jsonl"]),
        cost=f"{RESULTS}/{{attack}}/seed{{seed}}/{{defense}}/model/cost.json",
    params:
        settings=lambda w: json_slice(STUDY.defenses[w.defense].model_dump(mode="json", exclude={"label"})),
        lexicon=STUDY.lexicon(),
        source=lambda w: fingerprint("scripts.defend", module("defense", STUDY.defenses[w.defense].method)),
        suspicious=lambda w, input: Path(input.model[0]).parent,
        folder=lambda w, output: Path(output.model[0]).parent,
        work=lambda w: f"{RESULTS}/work/{w.attack}-seed{w.seed}-{w.defense}",
    log:
        f"{RESULTS}/logs/{{attack}}-seed{{seed}}-{{defense}}-model.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{attack}}-seed{{seed}}-{{defense}}-model.tsv"
    threads: 1
    resources:
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        "OMP_NUM_THREADS={threads} python {SCRIPTS}/defend.py --seed {wildcards.seed} --settings {params.settings:q}"
        " --model {params.suspicious} --pools {input.pools} --data {DATA} --lexicon {params.lexicon:q}"
        " --work {params.work} --output {params.folder} --cost {output.cost} 2>&1 | tee {log}"
