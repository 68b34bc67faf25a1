# split: which condition trains, validates or tests. Checked before it is written.
#
# Required input: conditions.parquet and manifest.json of the store
# Output:         results/{dataset}/{split}/plan.parquet, split.toml, lint.json
#
# A checkpoint: later stages expand over the test lines of the plan, and a plan that did not change
# stops the chain here. A TOML file counts by its parsed content, so it is a parameter, not an input.


checkpoint split:
    input:
        conditions="results/{dataset}/pack/conditions.parquet",
        manifest="results/{dataset}/pack/manifest.json",
    output:
        plan="results/{dataset}/{split}/plan.parquet",
        toml="results/{dataset}/{split}/split.toml",
        lint=report(
            "results/{dataset}/{split}/lint.json",
            caption="../workflow/report/lint.rst",
            category="Split",
            labels={"split": "{split}"},
        ),
        record="results/{dataset}/{split}/plan.parquet.record.json",
    log:
        "logs/{dataset}/{split}/split.log",
    benchmark:
        "results/{dataset}/{split}/benchmarks/split.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=lambda wildcards: SPLIT[wildcards.split]["settings"],
        fold=lambda wildcards: SPLIT[wildcards.split]["fold"],
        toml=lambda wildcards: SPLIT[wildcards.split]["toml"],
        known=lambda wildcards: SPLIT[wildcards.split]["known"],
        code=CODES["split"],
    script:
        "../workflow/scripts/split.py"


rule split_all:
    input:
        sorted({f"results/{run.dataset}/{run.split}/plan.parquet" for run in RUNS}),
    localrule: True
