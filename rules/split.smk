# split: assign every condition to training, validation or test. The plan is checked before it is
# written.
#
# Required input: conditions.parquet and manifest.json of the store
# Output:         results/{dataset}/{split}/plan.parquet, split.toml, lint.json
#
# This rule is a checkpoint: later stages expand over the test lines of the plan, and an unchanged plan
# reruns nothing. A TOML file counts by its parsed content, so it is a parameter, not an input.


checkpoint split:
    input:
        conditions=f"{paths.PACK}/conditions.parquet",
        manifest=f"{paths.PACK}/manifest.json",
    output:
        plan=paths.PLAN,
        toml=f"{paths.SPLIT}/split.toml",
        lint=report(
            f"{paths.SPLIT}/lint.json",
            caption="../workflow/report/lint.rst",
            category="Split",
            labels={"split": "{split}"},
        ),
        record=f"{paths.PLAN}{paths.RECORD}",
    log:
        "logs/{dataset}/{split}/split.log",
    benchmark:
        f"{paths.SPLIT}/benchmarks/split.tsv"
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
        sorted({str(paths.plan_file(run.dataset, run.split)) for run in RUNS}),
    localrule: True
