import zipfile
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.kit import Kit, read_kit, remove_kit, write_kit, zip_path

KIT = Kit(federation="chest", hospital="st-marys", host="fed.example.org", port=8443, flwr="1.41.0", consilium="0.1.0")


def test_a_kit_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "st-marys"
    archive = write_kit(folder, KIT, b"certificate")
    assert read_kit(folder) == KIT
    assert KIT.address == "fed.example.org:8443"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "ca.crt").read_bytes() == b"certificate"
    assert "name: st-marys\n" in (folder / "hospital.yaml").read_text()
    with zipfile.ZipFile(archive) as file:
        names = ("README.md", "ca.crt", "hospital.yaml", "kit.yaml", "roster.txt")
        assert file.namelist() == [f"st-marys/{name}" for name in names]
        assert all(file.read(f"st-marys/{path.name}") == path.read_bytes() for path in folder.iterdir())


def test_the_readme_has_the_three_steps(tmp_path: Path) -> None:
    write_kit(tmp_path / "kit", KIT, b"certificate")
    text = (tmp_path / "kit" / "README.md").read_text()
    steps = [text.index(f"`consilium hospital {step}`") for step in ("keygen", "join", "approve JOB_ID")]
    assert steps == sorted(steps)
    assert "$" not in text


def test_the_same_kit_is_the_same_bytes(tmp_path: Path) -> None:
    first = write_kit(tmp_path / "a" / "kit", KIT, b"certificate").read_bytes()
    assert write_kit(tmp_path / "b" / "kit", KIT, b"certificate").read_bytes() == first
    assert write_kit(tmp_path / "a" / "kit", KIT, b"certificate").read_bytes() == first


def test_no_private_key_is_ever_in_a_kit(tmp_path: Path) -> None:
    archive = write_kit(tmp_path / "kit", KIT, b"certificate")
    (tmp_path / "kit" / "node_key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")  # as the hospital's copy has it
    write_kit(tmp_path / "kit", KIT, b"certificate")
    with zipfile.ZipFile(archive) as file:
        assert not any(b"PRIVATE" in file.read(name) for name in file.namelist())


def test_what_is_not_a_kit_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it has no kit\.yaml\. Unpack the zip"):
        read_kit(tmp_path)
    write_kit(tmp_path / "kit", KIT, b"certificate")
    (tmp_path / "kit" / "kit.yaml").write_text("federation: chest\nport: many\nextra: 1\n")
    with pytest.raises(ConfigError, match="problems") as error:
        read_kit(tmp_path / "kit")
    assert all(word in str(error.value) for word in ("hospital: missing", "port", "extra"))


def test_hosts_and_names_that_would_break_a_file_are_refused() -> None:
    for host in ("fed.example.org:8443", "a b", "", "fed;x", "https://fed"):
        with pytest.raises(ValueError, match="host"):
            Kit(**{**KIT.model_dump(), "host": host})
    assert Kit(**{**KIT.model_dump(), "host": "::1"}).address == "[::1]:8443"
    with pytest.raises(ValueError, match="hospital"):
        Kit(**{**KIT.model_dump(), "hospital": "../other"})


def test_a_removed_kit_is_gone(tmp_path: Path) -> None:
    write_kit(tmp_path / "kit", KIT, b"certificate")
    remove_kit(tmp_path / "kit")
    remove_kit(tmp_path / "kit")
    assert not (tmp_path / "kit").exists()
    assert not zip_path(tmp_path / "kit").exists()
