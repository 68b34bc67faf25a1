"""Rule gather: sort the cells of one cell line into the store."""

from pathlib import Path

from statetx.data.pack.gather import gather
from statetx.data.pack.survey import Survey, declared
from statetx.stages.jobs import job, packing, recorded
from statetx.stages.paths import raw_line
from statetx.stages.steps import Step

if __name__ == "__main__":
    step = Step.from_job("pack", snakemake)
    store = Path(snakemake.output.cells).parent
    with job(snakemake.log[0]), packing(store), recorded(step):
        survey, line = Survey.read(snakemake.input.survey), raw_line(snakemake.wildcards.cell_line)
        settings = declared(snakemake.params.settings)
        gather(survey, snakemake.input.parts, line, settings, snakemake.output.cells)
