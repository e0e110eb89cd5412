"""The hospitals of a simulation as options of a command, and the choice they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from common.errors import ConfigError
from common.job import Job

Hospitals = Annotated[
    list[Path] | None,
    typer.Option(
        help="A hospital's folder, or one with a folder per hospital. May be given several times.", metavar="DIR"
    ),
]
Include = Annotated[
    list[str] | None, typer.Option(help="Take only this hospital. May be given several times.", metavar="NAME")
]
Phantoms = Annotated[
    bool,
    typer.Option("--phantoms", help="Use synthetic X-rays instead of --hospitals (4 hospitals, or --num-hospitals)."),
]
PartitionText = Annotated[
    str | None,
    typer.Option(
        help="Split the one folder given by --hospitals: dirichlet:hospitals=5,alpha=0.5, "
        "size:hospitals=5,exponent=1.2, or column:NAME of its manifest.",
    ),
]
NumHospitals = Annotated[
    int | None, typer.Option(min=1, help="How many hospitals take part: the first so many by name.")
]


@dataclass(frozen=True)
class HospitalChoice:
    """What the options said."""

    folders: list[Path] | None
    include: list[str] | None
    phantoms: bool
    partition: str | None
    number: int | None

    def hospitals(self, job: Job, out: Path, cache_dir: Path | None) -> Mapping[str, Path]:
        """Name -> folder. Hospitals made of one folder go below `out`, phantoms into the cache folder.

        Raises:
            ConfigError: the options contradict each other, or name what is not there.
            DataError: a folder holds no hospital, or cannot be split.
        """
        from client.feature_cache import default_cache_dir
        from client.phantom import make_phantoms
        from simulation.hospitals import find_hospitals, first_hospitals
        from simulation.partition import apply_partition, parse_partition

        folders = self.folders or []
        if self.phantoms == bool(folders):
            raise ConfigError("give either --hospitals DIR or --phantoms, not both and not neither")
        if self.phantoms:
            count = self.number or 4
            where = (cache_dir or default_cache_dir()) / f"phantoms-{count}-seed-{job.seed}"
            return make_phantoms(where, hospitals=count, seed=job.seed, classes=job.classes)
        if self.partition is not None:
            if len(folders) != 1 or self.include:
                raise ConfigError(
                    "--partition splits the one folder given by --hospitals; --include does not go with it"
                )
            made = apply_partition(folders[0], parse_partition(self.partition), out / "hospitals", job.seed)
            return first_hospitals(made, self.number)
        return first_hospitals(find_hospitals(folders, self.include or []), self.number)
