"""Rule pack: write the files that the packed cell lines share, such as the manifest."""

from pathlib import Path

from statetx.data.pack.pack import finish
from statetx.data.pack.survey import Survey, declared
from statetx.stages.jobs import job, packing, recorded
from statetx.stages.packed_sources import packed_as
from statetx.stages.steps import Step

if __name__ == "__main__":
    out = Path(snakemake.output.manifest).parent
    with job(snakemake.log[0]), packing(out), recorded(Step.from_job("pack", snakemake)):
        survey = Survey.read(snakemake.input.survey)
        settings = declared(snakemake.params.settings)
        finish(survey, settings, out, snakemake.input.parts, packed_as(out / "content.json"))
