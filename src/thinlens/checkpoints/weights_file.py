"""Files of weights of other programs: what they are, read without running any code of theirs."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from thinlens.errors import UsageError

WANTED = "wanted a .safetensors, or a .pth, .pt, .ckpt or .bin that holds nothing but tensors"

MOST_EXPANSION = 4
"""Bytes that one byte of a file may become in memory, at most: torch does not compress."""

MORE_BYTES = 2**20
"""That any file may take beside them."""

MOST_PLACEHOLDERS = 200
"""Classes of other programs in one file, at most."""

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file: wanted `git lfs pull` first"),
    (b"<!DOCTYPE", "a web page, not weights: wanted the file that the page offers"),
    (b"<!doctype", "a web page, not weights: wanted the file that the page offers"),
    (b"<html", "a web page, not weights: wanted the file that the page offers"),
    (b"7767517", "an ncnn model (.param): wanted the weights of PyTorch that it was made from"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: wanted weights of PyTorch"),
    (b"GGUF", "a GGUF file: wanted weights of PyTorch"),
    (b"\x1f\x8b", "a gzip archive: wanted the file in it"),
    (b"7z\xbc\xaf", "a 7z archive: wanted the file in it"),
    (b"Rar!", "a RAR archive: wanted the file in it"),
)
"""First bytes of files that hold no state dict, and what they are."""

_ONNX = re.compile(rb"\A\x08[\x01-\x20]\x12.{1,40}?(pytorch|onnx|tf2onnx|keras)", re.DOTALL)

_UNKNOWN_CLASS = re.compile(r"GLOBAL ([\w.]+(?: [\w.]+)?) was not an allowed global")


class Placeholder:
    """What stands for an object of another program, such as its options; it holds nothing."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(file: Path) -> object:
    """Return what a file of weights holds: tensors in dictionaries, and no code runs.

    Objects of other classes become `Placeholder`s. What is no such file is a `UsageError` that says
    what it is, as is a file whose content would take several times its size in memory.
    """
    if not file.is_file():
        raise UsageError(f"{file} is no file: wanted weights as .pth, .pt, .ckpt or .safetensors")
    with file.open("rb") as opened:
        head = opened.read(256)
    _refuse_others(file, head)
    most = MOST_EXPANSION * file.stat().st_size + MORE_BYTES
    if head.startswith(b"PK"):
        _check_archive(file, most)
    try:
        if head[8:9] == b"{" or file.suffix.lower() == ".safetensors":
            return safetensors.torch.load(file.read_bytes())
        content = _read_pickle(file)
        _check_tensors(content, most)
        return content
    except UsageError:
        raise
    except Exception as error:  # readers of untrusted files may raise anything
        raise UsageError(
            f"{file} cannot be read as weights ({type(error).__name__}): {WANTED}"
        ) from error


def _refuse_others(file: Path, head: bytes) -> None:
    for signature, kind in SIGNATURES:
        if head.lstrip().startswith(signature):
            raise UsageError(f"{file} is {kind}")
    if file.suffix.lower() == ".onnx" or _ONNX.match(head):
        raise UsageError(f"{file} is an ONNX model: wanted the weights of PyTorch it was made from")
    if head.startswith(b"PK") and _holds_program(file):
        raise UsageError(
            f"{file} is a TorchScript program, which would run code: wanted its state dict, as "
            "torch.save(torch.jit.load(file).state_dict(), ...) writes it"
        )


def _check_archive(file: Path, most: int) -> None:
    """Refuse a zip archive whose members would take more than so many bytes, before any is read."""
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # whatever a damaged directory raises
        raise UsageError(
            f"{file} cannot be read as weights ({type(error).__name__}): {WANTED}"
        ) from error
    if total > most:
        raise UsageError(
            f"{file} would take {total:,} bytes from {file.stat().st_size:,}: torch writes "
            "archives that are not compressed"
        )


def _check_tensors(content: object, most: int) -> None:
    """Refuse tensors that repeat few stored values so often that a copy takes more bytes."""
    pending, seen = [content], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided and value.numel() * value.element_size() > most:
                raise UsageError(f"a tensor of {list(value.shape)} is larger than the whole file")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pending += value.values() if isinstance(value, dict) else value


def _holds_program(file: Path) -> bool:
    """Return whether a zip archive of torch's is a TorchScript program."""
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _read_pickle(file: Path) -> object:
    """Read a pickle of tensors; classes that torch does not allow become placeholders."""
    placeholders: dict[str, type] = {}
    while True:
        harmless: list[Any] = [defaultdict, list, dict]
        harmless += [(kind, name) for name, kind in placeholders.items()]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
                warnings.simplefilter("ignore")  # old files use deprecated storage classes
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            unknown = _UNKNOWN_CLASS.search(str(error))
            if unknown is None or unknown[1] in placeholders:
                raise
            if len(placeholders) >= MOST_PLACEHOLDERS:
                raise
            name = unknown[1].replace(" ", ".")
            placeholders[name] = type("Placeholder", (Placeholder,), {})
