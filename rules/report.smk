# report: write one HTML page per experiment, which opens offline. No scores are computed.
#
# Required input: verdict.json, plans, model directories (curves, provenance), the store's manifest
#                 and conditions (cell counts)
# Output:         results/reports/{experiment}.html


rule report:
    input:
        verdict=lambda wildcards: str(
            paths.verdict_file(home_of(wildcards), wildcards.experiment)
        ),
        manifest=lambda wildcards: str(
            paths.pack_dir(home_of(wildcards)) / "manifest.json"
        ),
        conditions=lambda wildcards: str(
            paths.pack_dir(home_of(wildcards)) / "conditions.parquet"
        ),
        plans=report_plans,
        models=lambda wildcards: [
            str(paths.model_dir(*r)) for r in CFG.runs(wildcards.experiment)
        ],
    output:
        page=report(
            paths.PAGE,
            caption="../workflow/report/page.rst",
            category="Verdict",
            labels={"experiment": "{experiment}"},
        ),
        record=f"{paths.PAGE}{paths.RECORD}",
    log:
        "logs/reports/{experiment}.log",
    benchmark:
        f"{paths.RESULTS}/reports/benchmarks/{{experiment}}.tsv"
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
        [str(paths.page_file(name)) for name in CFG.experiments],
    localrule: True
