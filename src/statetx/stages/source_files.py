"""Paths of the source files of a data set."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from statetx.config import Config
from statetx.core.errors import ConfigError
from statetx.stages.paths import SIMULATED, made


def source_files(cfg: Config, dataset: str) -> list[str]:
    """Return the h5ad files of a data set, with globs expanded and ``{data_root}`` replaced.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.

    Raises
    ------
    ConfigError
        A path or pattern does not match a file, or matches a broken link.
    """
    from statetx.data.simulate import line_names
    from statetx.data.store.layout import file_name

    section = cfg.datasets[dataset]
    if section.files == "simulate":
        home = made(SIMULATED, dataset=dataset)
        return [str(home / f"{file_name(line)}.h5ad") for line in line_names(section.simulate)]
    found: list[str] = []
    for pattern in section.files:
        path = os.path.expandvars(str(Path(rooted(cfg, pattern)).expanduser()))
        matches = [path] if Path(path).exists() else _matches(cfg, pattern)
        if not matches:
            raise ConfigError(
                f"no file matches {pattern!r} (looked for {Path(path).absolute()})",
                where=f"datasets.{dataset}.files",
                fix="correct the path, which is relative to the working directory; or begin it "
                "with {data_root}/ and give --config data_root=DIRECTORY",
            )
        for link in matches:
            if not Path(link).exists():
                raise ConfigError(
                    f"{link!r} is a link to {str(Path(link).readlink())!r}, which does not exist",
                    where=f"datasets.{dataset}.files",
                    fix="fix or remove the link",
                )
        found += matches
    return list(dict.fromkeys(found))


def _matches(cfg: Config, pattern: str) -> list[str]:
    """Return the files that a pattern matches; the data root is never read as a pattern."""
    root = glob.escape(str(Path(cfg.data_root).expanduser()))
    path = Path(pattern.replace("{data_root}", root)).expanduser()
    return sorted(glob.glob(os.path.expandvars(str(path)), recursive=True))  # noqa: PTH207


def rooted(cfg: Config, path: str) -> str:
    """Return a path with ``{data_root}`` replaced."""
    return path.replace("{data_root}", cfg.data_root)
