"""Fingerprints of earlier versions, which bundles and manifests before 28 November 2026 hold.

They were digests of class names and of the `repr` of configs. The names below are frozen: those of
the classes and fields at that time.
"""

from __future__ import annotations

from typing import Any

from thinlens.models import registry_name
from thinlens.models.fingerprint import digest, fingerprint

LEGACY_CLASSES: dict[str, tuple[str, str]] = {
    "edsr": ("edsr.EDSR", "scale width blocks input_range"),
    "esrb-6-256": ("esrb.ESRB", "scale width blocks attention_width input_range"),
    "carn": ("carn.CARN", "scale width input_range"),
    "rfdn": ("rfdn.RFDN", "scale width attention_width blocks input_range"),
    "dncnn-17": ("dncnn.DnCNN", "depth width channels batch_norm"),
    "unet": ("unet.UNet", "width blocks input_range"),
    "srn": ("srn.SRN", "width blocks input_range"),
    "dmphn": ("dmphn.DMPHN", "width blocks levels input_range"),
    "rescan-24": ("rescan.RESCAN", "width depth stages"),
    "srn-lstm": ("srn_lstm.SRNLSTM", "width blocks"),
    "gcanet": ("gcanet.GCANet", "width edge"),
    "classifier": ("classifier.Classifier", "width features channels classes"),
    "mse-estimator": ("mse_estimator.MSEEstimator", "width channels candidates stem"),
    "class-pruned": (
        "class_pruned.ClassPruned",
        "network options channels kept m classifier_width classifier_features shared_norms "
        "searched",
    ),
    "family": (
        "family.Family",
        "network options channels kept m classifier_width classifier_features thinner shared",
    ),
}
"""The class and the fields of its config, by the first registry name of the kind."""


def fingerprints(network: object) -> tuple[str, ...]:
    """Return the current fingerprint of a network, then that of earlier versions if it had one."""
    earlier = legacy_fingerprint(network)
    return (fingerprint(network), earlier) if earlier else (fingerprint(network),)


def legacy_fingerprint(network: object) -> str | None:
    """Return the fingerprint of earlier versions; None for a kind that is newer."""
    module = getattr(network, "module", network)
    name = registry_name(module)
    if name not in LEGACY_CLASSES:
        return None
    path, field_names = LEGACY_CLASSES[name]
    config = old_repr("Config", getattr(module, "config", None), field_names)
    text = f"<class 'thinlens.models.{path}'> {config}"
    return digest(text, module)


def old_repr(name: str, settings: Any, field_names: str) -> str:
    """Return the `repr` of a dataclass under the names that it and its fields had.

    A field that was renamed since is written `old:new`.

    >>> from thinlens.models.entry import ModelEntry
    >>> old_repr("Network", ModelEntry(dict, None, "sr"), "task answers:output_kind")
    "Network(task='sr', answers='image')"
    """
    pairs = [field.partition(":") for field in field_names.split()]
    values = [f"{old}={getattr(settings, new or old)!r}" for old, _, new in pairs]
    return f"{name}({', '.join(values)})"
