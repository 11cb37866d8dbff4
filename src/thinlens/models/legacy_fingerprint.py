"""Fingerprints as bundles and manifests before 28 November 2026 hold them.

They were digests of class names and of the `repr` of configs. The names below are frozen: they are
those that the classes and fields had then, whatever they are called now.
"""

from __future__ import annotations

from typing import Any

from thinlens.models import registry_name
from thinlens.models.fingerprint import digest, fingerprint

CLASSES: dict[str, tuple[str, str]] = {
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
    """Return today's fingerprint of a network and those of earlier versions, today's first."""
    earlier = legacy_fingerprint(network)
    return (fingerprint(network), earlier) if earlier else (fingerprint(network),)


def legacy_fingerprint(network: object) -> str | None:
    """Return the fingerprint that a network had, or None for a kind that did not exist then."""
    module = getattr(network, "module", network)
    name = registry_name(module)
    if name not in CLASSES:
        return None
    path, field_names = CLASSES[name]
    config = old_repr("Config", getattr(module, "config", None), field_names)
    text = f"<class 'thinlens.models.{path}'> {config}"
    return digest(text, module)


def old_repr(name: str, settings: Any, field_names: str) -> str:
    """Return the `repr` of a dataclass under the names that it and its fields had."""
    values = ", ".join(f"{field}={getattr(settings, field)!r}" for field in field_names.split())
    return f"{name}({values})"
