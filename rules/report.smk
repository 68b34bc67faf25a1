# report: one page per experiment that opens offline. It only draws.
#
# Required input: verdict.json, plans, model directories (curves, provenance), the store's manifest
#                 and conditions (cell counts)
# Output:         results/reports/{experiment}.html


rule report:
    input:
        verdict=lambda wildcards: f"results/{home_of(wildcards)}/{wildcards.experiment}/verdict.json",
        manifest=lambda wildcards: f"results/{home_of(wildcards)}/pack/manifest.json",
        conditions=lambda wildcards: f"results/{home_of(wildcards)}/pack/conditions.parquet",
        plans=report_plans,
        models=lambda wildcards: [
            f"results/{r.dataset}/{r.split}/{r.model}/seed{r.seed}/model"
            for r in CFG.runs(wildcards.experiment)
        ],
    output:
        page=report(
            "results/reports/{experiment}.html",
            caption="../workflow/report/page.rst",
            category="Verdict",
            labels={"experiment": "{experiment}"},
        ),
        record="results/reports/{experiment}.html.record.json",
    log:
        "logs/reports/{experiment}.log",
    benchmark:
        "results/reports/benchmarks/{experiment}.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        title=lambda wildcards: CFG.report.title or wildcards.experiment,
        runs=lambda wildcards: parameters.verdict_params(CFG, wildcards.experiment)[
            "runs"
        ],
        code=CODES["report"],
    script:
        "../workflow/scripts/report.py"


rule report_all:
    input:
        [f"results/reports/{name}.html" for name in CFG.experiments],
    localrule: True
