import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision

from client.backbone import NETWORKS, digest_of
from client.weights import load_backbone
from common.errors import WeightsError
from common.job import Weights

FILE = "network.safetensors"
THREE_WAYS = ("Three ways out", "1.", "2.", "3.", "weights: random")


def network(name: str = "squeezenet1_1", seed: int = 7):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name].build()


def pinned(path: Path) -> Weights:
    return Weights(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def weights_file(tmp_path) -> Path:
    safetensors.torch.save_file(network().state_dict(), tmp_path / FILE)
    return tmp_path / FILE


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("CONSILIUM_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def refused(name: str, weights: Weights, folder: Path | None = None) -> str:
    with pytest.raises(WeightsError) as error:
        load_backbone(name, weights, folder)
    assert all(words in str(error.value) for words in THREE_WAYS), str(error.value)
    return str(error.value)


def test_a_file_with_the_right_digest_loads(weights_file):
    backbone = load_backbone("squeezenet1_1", pinned(weights_file), weights_file.parent)
    assert backbone.digest == digest_of(network())


def test_the_folder_may_come_from_the_environment(weights_file, monkeypatch):
    monkeypatch.setenv("CONSILIUM_WEIGHTS_DIR", str(weights_file.parent))
    assert load_backbone("squeezenet1_1", pinned(weights_file)).digest == digest_of(network())


def test_a_file_with_another_digest_is_refused(weights_file):
    text = refused("squeezenet1_1", Weights(file=FILE, sha256="0" * 64), weights_file.parent)
    assert "0" * 64 in text
    assert hashlib.sha256(weights_file.read_bytes()).hexdigest() in text


def test_a_missing_file_is_named(tmp_path):
    assert f"no {FILE}" in refused("squeezenet1_1", Weights(file=FILE, sha256="0" * 64), tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    text = refused("squeezenet1_1", Weights(file=FILE, sha256="0" * 64), tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text


def test_no_folder_at_all(tmp_path):
    assert "no weights directory is given" in refused("squeezenet1_1", Weights(file=FILE, sha256="0" * 64))


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"not weights at all")
    assert "cannot be read as a safetensors file" in refused("squeezenet1_1", pinned(tmp_path / FILE), tmp_path)


def test_a_file_that_may_not_be_read_is_refused(weights_file, monkeypatch):
    weights = pinned(weights_file)

    def forbidden(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    assert "Permission denied" in refused("squeezenet1_1", weights, weights_file.parent)


def test_weights_of_another_network_are_refused(weights_file):
    text = refused("mobilenet_v3_small", pinned(weights_file), weights_file.parent)
    assert "do not fit mobilenet_v3_small" in text


def test_an_unknown_word_lists_the_choices():
    with pytest.raises(WeightsError, match=r"IMAGENET1K_V9.*choose one of: IMAGENET1K_V1, IMAGENET1K_V2"):
        load_backbone("resnet50", Weights(name="IMAGENET1K_V9"))


def test_random_weights_say_what_they_are(caplog):
    load_backbone("squeezenet1_1", Weights(name="random", seed=4))
    assert "RANDOM" in caplog.text
    assert "never for diagnosis" in caplog.text


def replace_download(monkeypatch, function):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", function)


@pytest.mark.parametrize(
    "error",
    [
        URLError("no network"),
        RuntimeError("invalid hash value"),
        ConnectionResetError("reset"),
        EOFError("file ends"),
    ],
)
def test_without_a_download_there_are_three_ways_out(monkeypatch, tmp_path, error):
    def fail(url, **options):
        raise error

    replace_download(monkeypatch, fail)
    text = refused("squeezenet1_1", Weights(name="IMAGENET1K_V1"))
    assert torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url in text
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in text
    assert str(error.args[0]) in text


def test_a_download_is_loaded_and_its_digest_is_checked(monkeypatch):
    asked = []

    def download(url, **options):
        asked.append((url, options))
        return network().state_dict()

    replace_download(monkeypatch, download)
    backbone = load_backbone("squeezenet1_1", Weights(name="IMAGENET1K_V1"))
    assert backbone.digest == digest_of(network())
    [(url, options)] = asked
    assert url == torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    assert options["check_hash"] is True
    assert options["weights_only"] is True


def test_a_damaged_file_in_torchvision_s_cache_is_refused(tmp_path):
    url = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    path = tmp_path / "torch" / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    torch.save(network().state_dict(), path)
    text = refused("squeezenet1_1", Weights(name="IMAGENET1K_V1"))
    assert f"expected a sha256 that begins with {path.stem.rsplit('-', 1)[1]}" in text


def test_the_old_names_in_torchvision_s_densenet_files_are_understood(monkeypatch):
    new = network("densenet121").state_dict()
    old = {}
    for key, tensor in new.items():
        layer = "denselayer" in key
        for part in ("norm1", "norm2", "conv1", "conv2"):
            key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if layer else key
        old[key] = tensor
    assert old.keys() != new.keys()
    replace_download(monkeypatch, lambda url, **options: old)
    backbone = load_backbone("densenet121", Weights(name="IMAGENET1K_V1"))
    assert backbone.digest == digest_of(network("densenet121"))


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("mobilenet_v2", "cf4dad70bdf4d7cfd99085ec83cbe01edbe4242fba4e4624884e67f6ccc547da"),
        ("squeezenet1_0", "2b508070574afbc392740eaee684e9c1728289de6e2c522d257676b08ae6dd84"),
    ],
)
def test_real_weights_load(shared, name, sha256):
    folder = shared / "weights"
    backbone = load_backbone(name, Weights(file=f"{name}.safetensors", sha256=sha256), folder)
    again = load_backbone(name, Weights(file=f"{name}.safetensors", sha256=sha256), folder)
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 64, 64))
    assert backbone.digest == again.digest
    assert torch.isfinite(features).all()
    assert features.std() > 0.01


@pytest.mark.parametrize("network", ["mobilenet_v2", "mobilenet_v3_small", "inception_v3"])
def test_the_batch_normalisations_of_a_random_network_keep_their_momentum(network):
    """As torchvision builds them, so that statistics that are trained on move as in a pretrained network."""

    def momenta(module):
        return [one.momentum for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)]

    loaded = load_backbone(network, Weights(name="random", seed=1)).network
    assert momenta(loaded) == momenta(NETWORKS[network].build())
    assert all(0 < momentum < 0.5 for momentum in momenta(loaded))
