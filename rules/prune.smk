# prune: list the step checkpoints that are not needed, with their sizes. Deletes them only if
# `prune.mode` is `delete`.
#
# Required input: the model directory (training finished)
# Output:         results/{dataset}/{split}/{model}/seed{seed}/prune.json


rule prune:
    input:
        model=paths.MODEL,
    output:
        manifest=paths.PRUNE,
        record=f"{paths.PRUNE}{paths.RECORD}",
    log:
        "logs/{dataset}/{split}/{model}/seed{seed}/prune.log",
    benchmark:
        f"{paths.RUN}/benchmarks/prune.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        **parameters.prune_params(CFG),
    script:
        "../workflow/scripts/prune.py"


rule prune_all:
    input:
        [str(paths.made(paths.PRUNE, **r._asdict())) for r in RUNS],
    localrule: True
