"""The weights of a backbone: from torchvision, from a file pinned by its digest, or random."""

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from client.backbone import NETWORKS, Backbone, digest_of
from common.config_file import unknown
from common.errors import WeightsError
from common.job import Weights

log = logging.getLogger(__name__)


def load_backbone(name: str, weights: Weights, weights_dir: Path | None = None) -> Backbone:
    """The frozen backbone of a job.

    `weights_dir`, by default the environment's CONSILIUM_WEIGHTS_DIR, is where weights files are looked up.

    Raises:
        WeightsError: the weights cannot be had, are not the ones the job names, or do not fit the network.
    """
    row = NETWORKS[name]
    state = _state(name, weights, weights_dir)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also set the generators of the GPUs, which fork_rng is not asked to keep.
        torch.default_generator.manual_seed(weights.seed or 0)
        network = row.build()
        if state is None:
            log.warning(
                "%s has RANDOM weights (seed %s): for demonstrations only, never for diagnosis", name, weights.seed
            )
            digest = digest_of(network)
            _settle(network)
            return Backbone(row, network, digest, name)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit {name}: {_first_lines(str(error), 4)}\n{_other_weights(weights)}"
        ) from error
    digest = digest_of(network)
    return Backbone(row, network, digest, name)


def _settle(network: nn.Module) -> None:
    """Give the batch normalisations of a random network the statistics of some smooth noise.

    With the statistics it is built with (0 and 1) a random network fades out layer by layer: features of 1e-9. The
    digest is taken before, because these statistics may differ in the last bits between machines.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        noise = torch.nn.functional.interpolate(torch.rand(16, 3, 12, 12), size=(96, 96), mode="bilinear")
        with torch.no_grad():
            network(2 * noise - 1)
    for norm, momentum in zip(norms, momenta, strict=True):
        # A job may train on with them: `tune.batch_norm: local`.
        norm.momentum = momentum


def _state(name: str, weights: Weights, weights_dir: Path | None) -> dict[str, Tensor] | None:
    """The weights a job names; None for random ones."""
    if weights.random:
        return None
    state = _from_file(weights, weights_dir) if weights.file else _from_torchvision(name, str(weights.name))
    return {_current_name(key): tensor for key, tensor in state.items()}


_OLD_DENSE_LAYER = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


def _current_name(key: str) -> str:
    """Files of torchvision for DenseNet still say `norm.1.weight` where the network says `norm1.weight`."""
    return _OLD_DENSE_LAYER.sub(r"\1\2", key)


_NAME_A_FILE = (
    "name a local file in the job, weights: {file: NAME.safetensors, sha256: ...}, and give its folder with "
    "--weights-dir or CONSILIUM_WEIGHTS_DIR"
)
_RANDOM = "for a demonstration only, weights: random"


def _ways_out(*ways: str) -> str:
    return "Three ways out:\n" + "\n".join(f"  {number}. {way};" for number, way in enumerate(ways, 1))


def _other_weights(weights: Weights) -> str:
    """The ways out of weights that are there and cannot be used."""
    torchvisions = "name torchvision's own weights in the job, which are downloaded: weights: IMAGENET1K_V1"
    if not weights.file:
        return _ways_out("install the torchvision that these weights were made for", _NAME_A_FILE, _RANDOM)
    right = f"get {weights.file} with sha256 {weights.sha256}"
    return _ways_out(f"{right}, and give its folder with --weights-dir or CONSILIUM_WEIGHTS_DIR", torchvisions, _RANDOM)


def _from_torchvision(name: str, word: str) -> Mapping[str, Tensor]:
    choices = {entry.name: entry for entry in torchvision.models.get_model_weights(name)}
    if word not in choices:
        raise WeightsError(unknown(f"torchvision weights for {name}:", word, list(choices)))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        # torchvision checks a file it downloads against the digest in its name, but not one that is there already.
        _check_digest_in_name(folder / Path(urlparse(choices[word].url).path).name)
        state: Mapping[str, Tensor] = choices[word].get_state_dict(progress=True, check_hash=True, weights_only=True)
        return state
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        download = f"download {choices[word].url} where there is a network and put it into {folder}"
        raise WeightsError(
            f"{name} {word} could not be downloaded, or is not what its digest says ({error}). "
            + _ways_out(download, _NAME_A_FILE, _RANDOM)
        ) from error


def _check_digest_in_name(path: Path) -> None:
    """Raises a ValueError for a file NAME-DIGEST.pth whose sha256 does not begin with DIGEST; a missing one is fine."""
    wanted = path.stem.rpartition("-")[2]
    if path.exists() and re.fullmatch(r"[0-9a-f]{8,}", wanted):
        found = _sha256(path)
        if not found.startswith(wanted):
            raise ValueError(f"{path}: expected a sha256 that begins with {wanted}, got {found}; remove the file")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_file(weights: Weights, weights_dir: Path | None) -> Mapping[str, Tensor]:
    given = os.environ.get("CONSILIUM_WEIGHTS_DIR")
    folder = weights_dir or (Path(given) if given else None)
    ways_out = _other_weights(weights)
    if folder is None:
        raise WeightsError(
            f"the job names the weights file {weights.file}, but no weights directory is given. {ways_out}"
        )
    path = folder / str(weights.file)
    if not path.is_file():
        raise WeightsError(f"there is no {weights.file} in the weights directory {folder}. {ways_out}")
    try:
        found = _sha256(path)
        if found != weights.sha256:
            raise WeightsError(
                f"{path}: expected sha256 {weights.sha256}, got {found}: another file, or a damaged one. {ways_out}"
            )
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}. {ways_out}") from error


def _first_lines(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[:lines])
