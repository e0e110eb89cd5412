"""The model card of a finished run: MODEL_CARD.md and model_card.html, from the files of the run directory alone.

Its sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting", FAT* 2019, arXiv 1810.03993. A section for
which there is no data says so, and why.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2

from common.artifact import write_atomically
from common.errors import ArtifactError
from server import model_card_figures as figures
from server import model_card_text as text
from server.model_card_page import HTML, MARKDOWN, Item, Section, in_markdown
from server.run_directory import REMEDY, FinishedRun, read_run

CARD, CARD_PAGE = "MODEL_CARD.md", "model_card.html"
_MODEL = "model.safetensors"
_UNREADABLE = (KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError, jinja2.UndefinedError)


def write_card(folder: Path) -> tuple[Path, Path]:
    """Write the model card of a run directory as Markdown and as a page; returns their paths.

    Raises:
        ArtifactError: the folder is no run directory, or a file of it is damaged or of another run.
    """
    run = read_run(folder)
    model = folder / _MODEL
    digest = hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else None
    try:
        sections = card_of(run, digest)
        name = str(run.summary["job"]["name"])
        markdown, page = (_render(template, name, sections) for template in (MARKDOWN, HTML))
    except _UNREADABLE as error:
        raise ArtifactError(
            f"{folder / 'summary.json'} is damaged, or of another version: expected the summary of a run, "
            f"got {type(error).__name__}: {error}; {REMEDY}"
        ) from error
    write_atomically(folder / CARD, markdown)
    write_atomically(folder / CARD_PAGE, page)
    return folder / CARD, folder / CARD_PAGE


def card_of(run: FinishedRun, model_digest: str | None) -> list[Section]:
    """The sections of the card, in the order of Mitchell et al. model_digest: sha256 of the model file."""
    sections: Mapping[str, Callable[[], list[Item]]] = {
        "Model details": lambda: text.details(run, model_digest),
        "Intended use": lambda: text.intended_use(run),
        "Factors": lambda: text.factors(run),
        "Metrics": lambda: text.measures(run),
        "Evaluation data": lambda: figures.data(run, "test"),
        "Training data": lambda: figures.data(run, "train"),
        "Quantitative analyses: all hospitals, each, and the worst": lambda: figures.performance(run),
        "Quantitative analyses: differences between hospitals": lambda: figures.differences(run),
        "Quantitative analyses: sex and age bands": lambda: figures.groups(run),
        "Quantitative analyses: calibration": lambda: figures.calibration(run),
        "Ethical considerations: privacy": lambda: text.privacy(run),
        "Caveats and recommendations": lambda: text.limits(run),
    }
    return [Section(title, items()) for title, items in sections.items()]


def _render(template: str, name: str, sections: list[Section]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["md"] = in_markdown
    return environment.from_string(template).render(name=name, sections=sections)
