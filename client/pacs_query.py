"""What may be asked of a PACS."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from common.config_file import unknown
from common.errors import ConfigError

QUERY_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate", "PatientSex"), "study"),
        **dict.fromkeys(("StudyDate", "StudyTime", "StudyDescription", "StudyID", "StudyInstanceUID"), "study"),
        **dict.fromkeys(("AccessionNumber", "ReferringPhysicianName", "ModalitiesInStudy", "InstitutionName"), "study"),
        **dict.fromkeys(("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesDate", "SeriesNumber"), "series"),
        **dict.fromkeys(("BodyPartExamined", "ProtocolName", "StationName", "Manufacturer"), "series"),
    }
)
"""What may be asked for, and whose attribute it is; series are what is looked for."""


def parse_query(items: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` of the command line, checked.

    Raises:
        ConfigError: no `=`, an unknown key, one twice, or none at all.
    """
    query: dict[str, str] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise ConfigError(
                f"--query '{item}': expected KEY=VALUE, such as Modality=CT or StudyDate=20260101-20260131"
            )
        if key not in QUERY_KEYS:
            raise ConfigError(f"--query '{item}': {unknown('key', key, list(QUERY_KEYS))}")
        if key in query:
            raise ConfigError(f"--query {key} is given twice; import once for each value")
        query[key] = value
    if not query:
        raise ConfigError(
            "a PACS holds more than anyone wants to copy: say what with --query, such as --query Modality=CT"
        )
    return query
