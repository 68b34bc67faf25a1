"""Rule pack: what binds the packed lines together."""

from pathlib import Path

from statetx.data.pack import finish
from statetx.data.survey import Survey, declared
from statetx.jobs import job, packing

if __name__ == "__main__":
    with job(snakemake.log[0]), packing(Path(snakemake.output.manifest).parent):
        survey = Survey.read(snakemake.input.survey)
        settings = declared(snakemake.params.settings)
        finish(survey, settings, Path(snakemake.output.manifest).parent)
