"""Rule survey: read the headers of all source files and check them before packing."""

from pathlib import Path

from statetx.config import load
from statetx.data.pack.check_disk_space import check_room
from statetx.data.pack.survey import declared, survey
from statetx.stages.jobs import job, packing
from statetx.stages.source_files import source_files

if __name__ == "__main__":
    with job(snakemake.log[0]), packing(Path(snakemake.output.survey).parents[1]):
        params, out = snakemake.params, snakemake.output.survey
        files = source_files(load(dict(snakemake.config)), params.dataset)
        settings = declared(params.settings)
        surveyed = survey(files, settings, params.dataset)
        check_room(files, settings, Path(out).parents[1])
        surveyed.write(out)
