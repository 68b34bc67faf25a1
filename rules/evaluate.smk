# evaluate: score the predictions of one run for one cell line.
#
# Required input: predictions, the reference of the line, the plan, the store files of the line
# Output:         .../seed{seed}/scores/{checkpoint}/{cell_line}/: results.csv and agg_results.csv
#                 (cell-eval's columns), scores.csv (ours), de.parquet


rule evaluate:
    input:
        cells="results/{dataset}/{split}/{model}/seed{seed}/predictions/{checkpoint}/{cell_line}.h5ad",
        reference=reference_files,
        plan=plan_of,
        genes=genes_of,
        store=line_files,
    output:
        results="results/{dataset}/{split}/{model}/seed{seed}/scores/{checkpoint}/{cell_line}/results.csv",
        aggregate="results/{dataset}/{split}/{model}/seed{seed}/scores/{checkpoint}/{cell_line}/agg_results.csv",
        scores="results/{dataset}/{split}/{model}/seed{seed}/scores/{checkpoint}/{cell_line}/scores.csv",
        de="results/{dataset}/{split}/{model}/seed{seed}/scores/{checkpoint}/{cell_line}/de.parquet",
        record="results/{dataset}/{split}/{model}/seed{seed}/scores/{checkpoint}/{cell_line}/record.json",
    log:
        "logs/{dataset}/{split}/{model}/seed{seed}/evaluate.{checkpoint}.{cell_line}.log",
    benchmark:
        "results/{dataset}/{split}/{model}/seed{seed}/benchmarks/evaluate.{checkpoint}.{cell_line}.tsv"
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
            "results/{dataset}/{split}/{model}/seed{seed}/scores/{checkpoint}/{cell_line}/scores.csv",
            RUNS,
        ),
    localrule: True
