"""What a hospital kept of its own and a model is diagnosed with: a personalised head, its own batch normalisation."""

from collections.abc import Mapping
from pathlib import Path

from client.backbone import Backbone
from client.local_state import Kept, load_kept
from client.tuned import OF_BATCH_NORM, cut_of
from common.artifact import Manifest
from common.errors import ArtifactError
from common.head import Float32, Head
from common.model import Model, digest_of_arrays


def personalised(model: Model, manifest: Manifest, kept: Kept, path: Path | None) -> Model:
    """The model with this hospital's head in place of the global one.

    Raises:
        ArtifactError: the head was not made from this model.
    """
    if kept.job_id != manifest.job_id or kept.model != digest_of_arrays(model.arrays()):
        raise ArtifactError(
            f"{path} is no personalised head of this model: expected one of job {manifest.job_id[:16]} made from this model, "
            f"got one of job {kept.job_id[:16]}; leave --personal out, or give the file that belongs to the model"
        )
    return Model(Head(kept.arrays["weight"], kept.arrays["bias"]), model.tuned)


def batch_norm_of(manifest: Manifest, backbone: Backbone, model: Path, path: Path | None) -> Mapping[str, Float32]:
    """This hospital's own batch normalisation, of the model's job and of its round or, if it missed that, the last before.

    A model of round 0, before any training, has the pretrained one everywhere.

    Raises:
        ArtifactError: it is missing, not wanted, or of another model.
    """
    job = manifest.job
    if not job.tune.local_batch_norm or manifest.rounds == 0:
        if path is not None:
            raise ArtifactError(f"{model} has no batch normalisation of a hospital's own; leave --batch-norm out")
        return {}
    wanted = "batch-norm-*.safetensors in the folder state-* of its cache"
    if path is None:
        raise ArtifactError(
            f"{model} was trained with tune.batch_norm: local, so each hospital has its own batch normalisation; give this "
            f"hospital's with --batch-norm ({wanted})"
        )
    kept = load_kept(path)
    names = {f"{norm}.{one}" for norm in backbone.batch_norms_from(cut_of(job, backbone)) for one in OF_BATCH_NORM}
    if kept.job_id != manifest.job_id or kept.number > manifest.rounds or kept.arrays.keys() != names:
        raise ArtifactError(
            f"{path} does not belong to this model: expected {len(names)} arrays of job {manifest.job_id[:16]} from round "
            f"{manifest.rounds} or the last before it, got {len(kept.arrays)} of job {kept.job_id[:16]}, round {kept.number}"
        )
    return kept.arrays
