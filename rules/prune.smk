# prune: which step checkpoints nobody needs, and how many bytes they take. Deletes only when asked.
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
