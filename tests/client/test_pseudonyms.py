"""Pseudonyms and the salt."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.pseudonyms import load_salt, pseudonym, salt_fingerprint, uid_pseudonym
from common.errors import ConfigError, StorageError

SALT = bytes(range(32))


def test_a_pseudonym_is_an_hmac_of_the_id_and_the_salt():
    # printf 'patient\0MRN-1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f
    assert pseudonym(SALT, "MRN-1") == "6cc50edc9e2ddd2953b4024088a215c8"
    assert pseudonym(SALT, " MRN-1 ") == pseudonym(SALT, "MRN-1")
    assert pseudonym(SALT, "MRN-1") != pseudonym(SALT, "MRN-2")
    assert pseudonym(SALT, "MRN-1") != pseudonym(bytes(32), "MRN-1")


@given(st.text(), st.binary(min_size=32, max_size=32))
def test_a_uid_becomes_a_valid_uid(uid, salt):
    from pydicom.uid import UID

    found = UID(uid_pseudonym(salt, uid))
    assert found.is_valid
    assert len(found) <= 44
    assert found == uid_pseudonym(salt, uid)


def test_a_salt_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "salt"
    salt = load_salt(path)
    assert len(salt) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_salt(path) == salt
    assert [one.name for one in path.parent.iterdir()] == ["salt"]
    assert load_salt(tmp_path / "other") != salt
    assert salt_fingerprint(salt) == salt_fingerprint(salt) != salt_fingerprint(SALT)


def test_of_two_processes_that_make_a_salt_the_first_wins(tmp_path, monkeypatch):
    path = tmp_path / "salt"
    link = os.link

    def late(source, target):
        path.write_bytes(SALT)
        path.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert load_salt(path) == SALT


def test_a_salt_that_others_read_or_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "salt"
    path.write_bytes(SALT)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        load_salt(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes, expected 32"):
        load_salt(path)
    with pytest.raises(StorageError, match="can be neither read nor made"):
        load_salt(path / "below-a-file")
