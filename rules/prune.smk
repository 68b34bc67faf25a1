# prune: which step checkpoints nobody needs, and how many bytes they take. Deletes only when asked.
#
# Required input: the model directory (training finished)
# Output:         results/{dataset}/{split}/{model}/seed{seed}/prune.json


rule prune:
    input:
        model="results/{dataset}/{split}/{model}/seed{seed}/model",
    output:
        manifest="results/{dataset}/{split}/{model}/seed{seed}/prune.json",
        record="results/{dataset}/{split}/{model}/seed{seed}/prune.json.record.json",
    log:
        "logs/{dataset}/{split}/{model}/seed{seed}/prune.log",
    benchmark:
        "results/{dataset}/{split}/{model}/seed{seed}/benchmarks/prune.tsv"
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
        [
            f"results/{r.dataset}/{r.split}/{r.model}/seed{r.seed}/prune.json"
            for r in RUNS
        ],
    localrule: True
