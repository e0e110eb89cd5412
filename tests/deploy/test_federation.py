from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.certificates import inspect
from deploy.federation import (
    Federation,
    Settings,
    forget_hospital,
    lacking_names,
    load,
    save,
    take_key,
    with_hospitals,
)
from deploy.kit import read_kit
from deploy.node_key import make_node_key


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_has_all_that_is_needed_and_is_private(federation: Federation) -> None:
    assert load(federation.folder) == federation
    assert read_kit(federation.kit("st-marys")).address == f"localhost:{federation.settings.port}"
    assert federation.kit("charite").with_name("charite.zip").exists()
    for private in (federation.folder, federation.certificates, federation.state, federation.runs):
        assert private.stat().st_mode & 0o777 == 0o700
    assert not lacking_names(federation)


def test_no_kit_has_a_private_key(federation: Federation) -> None:
    kits = contents(federation.folder / "kits")
    assert len(kits) == 2 * 6
    assert not [name for name, content in kits.items() if b"PRIVATE" in content]


def test_doing_it_again_changes_nothing(federation: Federation) -> None:
    before = contents(federation.folder)
    save(federation.folder, load(federation.folder).settings)
    assert contents(federation.folder) == before


def test_a_further_hospital_leaves_the_others_alone(federation: Federation) -> None:
    before = contents(federation.folder)
    after = save(federation.folder, with_hospitals(federation.settings, ["charite", "third"]))
    assert list(after.settings.hospitals) == ["st-marys", "charite", "third"]
    changed = {name for name, content in contents(federation.folder).items() if before.get(name) != content}
    assert changed == {"federation.yaml", "kits/third.zip"} | {
        f"kits/third/{name}" for name in ("README.md", "ca.crt", "hospital.yaml", "kit.yaml", "roster.txt")
    }


def test_a_further_name_renews_the_certificate_and_keeps_the_authority(federation: Federation) -> None:
    authority = federation.ca.read_bytes()
    more = federation.settings.model_copy(update={"names": ("other.example.org", "2001:DB8:0::1")})
    assert lacking_names(Federation(federation.folder, more)) == ["other.example.org", "2001:db8::1"]
    after = save(federation.folder, more)
    assert not lacking_names(after)
    assert {"other.example.org", "2001:db8::1"} <= set(inspect(after.certificates / "server.crt").names)
    assert federation.ca.read_bytes() == authority


def test_keys_are_taken_once(federation: Federation, tmp_path: Path) -> None:
    first, second = make_node_key(tmp_path / "one"), make_node_key(tmp_path / "two")
    federation = take_key(federation, "st-marys", tmp_path / "one.pub")
    assert load(federation.folder).settings.hospitals == {"st-marys": first, "charite": None}
    assert take_key(federation, "st-marys", tmp_path / "one.pub") == federation
    with pytest.raises(ConfigError, match="is the key of st-marys"):
        take_key(federation, "charite", tmp_path / "one.pub")
    with pytest.raises(ConfigError, match=r"has another key already.*--replace"):
        take_key(federation, "st-marys", tmp_path / "two.pub")
    federation = take_key(federation, "st-marys", tmp_path / "two.pub", replace=True)
    assert federation.settings.hospitals["st-marys"] == second
    with pytest.raises(ConfigError, match="PRIVATE"):
        take_key(federation, "charite", tmp_path / "one")
    with pytest.raises(ConfigError, match="unknown hospital 'charit'; did you mean 'charite'"):
        take_key(federation, "charit", tmp_path / "one.pub")


def test_a_hospital_is_forgotten_with_its_key_and_kit(federation: Federation, tmp_path: Path) -> None:
    make_node_key(tmp_path / "one")
    federation = take_key(federation, "st-marys", tmp_path / "one.pub")
    assert federation.key("st-marys").exists()
    after = forget_hospital(federation, "st-marys")
    assert list(load(after.folder).settings.hospitals) == ["charite"]
    assert not [path for path in after.folder.rglob("*") if "st-marys" in path.name]
    with pytest.raises(ConfigError, match="unknown hospital"):
        forget_hospital(after, "st-marys")


def test_what_is_not_a_federation_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no federation\.yaml.*coordinator provision --name"):
        load(tmp_path)


def test_bad_settings_are_named() -> None:
    settings = Settings(name="chest", host="localhost")
    with pytest.raises(ConfigError, match="--hospital: 1 problem"):
        with_hospitals(settings, ["St. Mary's"])
    with pytest.raises(ValueError, match="port"):
        Settings(name="chest", host="localhost", port=0)
