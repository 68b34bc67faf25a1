# evaluate: score the predictions of one run for one cell line.
#
# Required input: predictions, the reference of the line, the plan, the store files of the line
# Output:         .../seed{seed}/scores/{checkpoint}/{cell_line}/: results.csv and agg_results.csv
#                 (columns of cell-eval), scores.csv (scores of statetx), de.parquet


rule evaluate:
    input:
        cells=paths.PREDICTIONS,
        reference=reference_files,
        plan=plan_of,
        genes=genes_of,
        store=line_files,
    output:
        results=f"{paths.SCORES}/results.csv",
        aggregate=f"{paths.SCORES}/agg_results.csv",
        scores=f"{paths.SCORES}/scores.csv",
        de=f"{paths.SCORES}/de.parquet",
        record=f"{paths.SCORES}/record.json",
    log:
        "logs/{dataset}/{split}/{model}/seed{seed}/evaluate.{checkpoint}.{cell_line}.log",
    benchmark:
        f"{paths.RUN}/benchmarks/evaluate.{{checkpoint}}.{{cell_line}}.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        **parameters.evaluate_params(CFG),
    script:
        "../workflow/scripts/evaluate.py"


rule evaluate_all:
    input:
        lambda wildcards: per_test_line(
            f"{paths.SCORES}/scores.csv",
            RUNS,
        ),
    localrule: True
