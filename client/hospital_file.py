"""The hospital's own file: where its data is, and what it allows. It never leaves the hospital.

See `configs/hospital.yaml` for an annotated example.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from client.feature_cache import default_cache_dir
from client.policy import Policy
from common.config_file import Section, load_yaml, parse


class Data(Section):
    """Where the images are: a folder (with manifest.csv, or one sub-folder per class) or a manifest file."""

    manifest: Path | None = None
    folder: Path | None = None
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is None) == (self.folder is None):
            raise ValueError("expected either manifest (a CSV file) or folder, not both and not neither")
        return self

    @property
    def source(self) -> Path:
        """The folder or the manifest."""
        return self.manifest or self.folder or Path()


class HospitalFile(Section):
    """One hospital's configuration. node_key, roster: from the kit, for secure aggregation; null: none is taken part in.

    consortium_secret: a file that all hospitals have and the coordinator has not, for jobs with `duplicates: check`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    data: Data
    cache: Path | None = None
    state: Path | None = None
    activation_cache_gb: Annotated[float, Field(ge=0.0)] = 8.0
    weights_dir: Path | None = None
    node_key: Path | None = None
    roster: Path | None = None
    consortium_secret: Path | None = None
    device: str = "auto"
    policy: Policy = Policy()

    @property
    def cache_folder(self) -> Path:
        """Where features are cached."""
        return self.cache or default_cache_dir()

    @property
    def state_folder(self) -> Path:
        """Where approvals and the agent's status are."""
        return self.state or self.cache_folder / f"state-of-{self.name}"

    @property
    def key_folder(self) -> Path:
        """Where the key is by which patients' ids of DICOM files are hashed: with `state`, else in the cache folder."""
        return self.state or self.cache_folder

    @property
    def activation_cache_bytes(self) -> int:
        """Disk that one job's activations may take (`tune: last-blocks`)."""
        return int(self.activation_cache_gb * 1e9)


def load_hospital_file(path: Path) -> HospitalFile:
    """A hospital's file.

    Raises:
        ConfigError: with every problem of the file.
    """
    return parse(HospitalFile, load_yaml(path), str(path))
