"""consilium import: a de-identified working copy of a hospital's DICOM images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ConfigError

if TYPE_CHECKING:
    from client.importing import Result
    from client.importing_files import Found

EPILOG = """
Examples: consilium import /mnt/cd1 --out copies --label pneumonia;
consilium import --orthanc https://pacs:8042 --query Modality=CT --query StudyDate=20260101-20260131 --out copies.

A PACS's user and password, or token, come from --credentials FILE (YAML: user and password, or token), or from
CONSILIUM_PACS_USER and CONSILIUM_PACS_PASSWORD, or CONSILIUM_PACS_TOKEN.

Exit codes: 0 everything is there; 1 some images were refused; 2 an option is wrong; 3 nothing could be imported, or the PACS
cannot be used; 7 the copies cannot be written (disk full).
"""


def import_images(
    out: Annotated[
        Path,
        typer.Option(help="Folder of the copies and of manifest.csv: new, or of an earlier import.", metavar="DIR"),
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders; what is DICOM is found by content.", metavar="SOURCE..."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label of all these images.", metavar="NAME")] = None,
    labels_from: Annotated[
        Path | None,
        typer.Option(help="CSV with a column label, and StudyInstanceUID, AccessionNumber or path.", metavar="FILE"),
    ] = None,
    keep_sex_age: Annotated[
        bool, typer.Option("--keep-sex-age", help="Columns sex and age_band (as jobs ask for them) in manifest.csv.")
    ] = False,
    allow_burned_in: Annotated[
        bool,
        typer.Option(
            "--allow-burned-in", help="Also images that probably have text in their pixels. Look at each of them."
        ),
    ] = False,
    dicomweb: Annotated[str | None, typer.Option(help="From a PACS that speaks DICOMweb.", metavar="URL")] = None,
    orthanc: Annotated[str | None, typer.Option(help="From Orthanc, by its REST API.", metavar="URL")] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            help="What to take from the PACS; may be repeated: Modality=CT, StudyDate=20260101-20260131, ...",
            metavar="KEY=VALUE",
        ),
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="User and password, or token, of the PACS; mode 0600.", metavar="FILE")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the PACS's authority (PEM).", metavar="FILE")] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Allow http:// to another machine: images can be read on the way.")
    ] = False,
    salt: Annotated[
        Path | None,
        typer.Option(
            help="The hospital's secret from which pseudonyms are made; it is made on first use. Keep it, and keep it here.",
            metavar="FILE",
            envvar="CONSILIUM_SALT",
            show_default="~/.config/consilium/pseudonyms.salt",
        ),
    ] = None,
) -> None:
    """Copy DICOM images without what identifies their patients, from folders or a PACS; originals stay as they are.

    Run the same command again after an interruption: what is there is not copied again. docs/images.md says what is removed,
    what is kept, and what is not guaranteed: text burned into images, faces in CT and MR.
    """
    if sum((bool(sources), dicomweb is not None, orthanc is not None)) != 1:
        raise ConfigError("expected either SOURCE..., or --dicomweb URL, or --orthanc URL")
    if sources and query:
        raise ConfigError("--query is for a PACS; give --dicomweb or --orthanc, or leave it out")
    if label and labels_from:
        raise ConfigError("expected --label or --labels-from, not both")
    from client import importing
    from client.importing_labels import Labels, read_labels
    from client.pseudonyms import default_salt_path

    labels = read_labels(labels_from) if labels_from else Labels((label or "").strip())
    if labels.by.get("path") and not sources:
        raise ConfigError("images of a PACS have no path; --labels-from needs StudyInstanceUID or AccessionNumber")
    options = importing.Options(labels, allow_burned_in, keep_sex_age)
    if sources:
        from client.importing_files import find_files

        found = find_files(sources, out)
    else:
        found = _from_pacs(dicomweb, orthanc, query or [], credentials, ca, plain_http)
    with importing.opened(out, salt or default_salt_path()) as importer:
        result = importer.run(found, options)
    _report(result, out)


def _from_pacs(
    dicomweb: str | None,
    orthanc: str | None,
    query: list[str],
    credentials: Path | None,
    ca: Path | None,
    plain_http: bool,
) -> "list[Found]":
    from client.pacs import access
    from client.pacs_query import parse_query

    asked = parse_query(query)
    way = access(dicomweb or orthanc or "", credentials, ca, plain_http, os.environ)
    if dicomweb:
        from client.pacs_dicomweb import DicomWeb

        return DicomWeb(way).find(asked)
    from client.pacs_orthanc import Orthanc

    return Orthanc(way).find(asked)


def _report(result: "Result", out: Path) -> None:
    """Say what was done and what is to be done; exit code 3 if nothing is there, 1 if something was refused."""
    typer.echo(f"written: {result.written}, already there: {result.already_there}, refused: {result.num_refused}")
    for reason, count in sorted(result.refused.items(), key=lambda one: -one[1]):
        typer.echo(f"  {count} x {reason}")
    if result.num_refused:
        typer.echo("  (`consilium --debug import ...` names each, on this terminal)")
    if not result.written + result.already_there:
        typer.echo("nothing was imported; give files, folders or a query with DICOM images", err=True)
        raise typer.Exit(3)
    manifest = out / "manifest.csv"
    if result.unlabelled:
        typer.echo(
            f"next: {result.unlabelled} images in {manifest} have no label; fill in the column label, or run the command again "
            "with --label or --labels-from"
        )
    else:
        typer.echo(f"next: write `data: {{manifest: {manifest}}}` into the hospital file; consilium check {out}")
    if result.num_refused:
        raise typer.Exit(1)
