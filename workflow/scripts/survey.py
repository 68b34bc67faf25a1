"""Rule survey: what the source files hold together; checks before any work."""

from pathlib import Path

from statetx.config import load
from statetx.data.pack.disk_space import check_room
from statetx.data.pack.survey import declared, survey
from statetx.stages.jobs import job, packing
from statetx.stages.source_files import source_files

if __name__ == "__main__":
    with job(snakemake.log[0]), packing(Path(snakemake.output.survey).parents[1]):
        params, out = snakemake.params, snakemake.output.survey
        files = source_files(load(dict(snakemake.config)), params.dataset)
        settings = declared(params.settings)
        found = survey(files, settings, params.dataset)
        check_room(files, settings, Path(out).parents[1])
        found.write(out)
