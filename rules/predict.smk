# predict: predict the held-out cells of one cell line with one checkpoint of one run.
#
# Required input: the model directory, the plan, the store files of the line
# Output:         results/{dataset}/{split}/{model}/seed{seed}/predictions/{checkpoint}/{cell_line}.h5ad


rule predict:
    input:
        model=paths.MODEL,
        plan=plan_of,
        genes=genes_of,
        store=line_files,
    output:
        cells=paths.PREDICTIONS,
        record=f"{paths.PREDICTIONS}{paths.RECORD}",
    log:
        "logs/{dataset}/{split}/{model}/seed{seed}/predict.{checkpoint}.{cell_line}.log",
    benchmark:
        f"{paths.RUN}/benchmarks/predict.{{checkpoint}}.{{cell_line}}.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        gpu=needs_gpu,
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda wildcards: predict_params(wildcards)["settings"],
        code=lambda wildcards: predict_params(wildcards)["code"],
        match=match_of,
        kind=kind_of,
    script:
        "../workflow/scripts/predict.py"


rule predict_all:
    input:
        lambda wildcards: per_test_line(
            paths.PREDICTIONS,
            RUNS,
        ),
    localrule: True
