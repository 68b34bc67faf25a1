# verdict: compare every model of an experiment with the best baseline. Folds are pooled; every seed
# has its own row.
#
# Required input: scores of every run of the experiment, references of every test line
# Output:         results/{dataset}/{experiment}/leaderboard.csv, verdict.json


rule verdict:
    input:
        scores=verdict_scores,
        references=verdict_references,
    output:
        leaderboard=report(
            paths.LEADERBOARD,
            caption="../workflow/report/leaderboard.rst",
            category="Verdict",
            labels={"experiment": "{experiment}"},
        ),
        verdict=paths.VERDICT,
        record=f"{paths.VERDICT}{paths.RECORD}",
    log:
        "logs/{dataset}/{experiment}/verdict.log",
    benchmark:
        f"{paths.EXPERIMENT}/benchmarks/verdict.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: parameters.verdict_params(
            CFG, wildcards.experiment
        )["settings"],
        runs=lambda wildcards: parameters.verdict_params(CFG, wildcards.experiment)[
            "runs"
        ],
        checkpoint=CFG.evaluation.checkpoints[0],
        code=CODES["verdict"],
    script:
        "../workflow/scripts/verdict.py"


rule verdict_all:
    input:
        [
            str(paths.verdict_file(CFG.experiment_dataset(name), name))
            for name in CFG.experiments
        ],
    localrule: True
