"""Reading of an upload: a form with one image, straight into its folder, within the limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from thinlens.images.formats import SUFFIXES
from thinlens.serve.limits import ServerLimits
from thinlens.serve.refusals import RefusedError

IMAGE_FIELD = "image"
"""The name of the field that holds the file."""

FORM_BYTES = 2**16
"""Of a form beside its file."""

MOST_FIELDS = 16
MOST_FIELD_BYTES = 1024

DRAINED_BYTES = 2**26
"""Read and dropped of an upload that is refused: a browser shows the answer only when it has sent
all, or much."""

NAME_LENGTH, SUFFIX_LENGTH = 120, 12
"""Characters of a file's name that are kept, and of its ending."""


@dataclass
class UploadForm:
    """The fields of a form, and its file."""

    fields: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    name: str = "image"
    """Of the file, as its owner calls it, without folders."""
    files: int = 0
    """Files that the form had under the image's field."""


async def receive_form(request: Request, folder: Path, limits: ServerLimits) -> UploadForm:
    """Write the image of a form below `folder`, and return the form.

    Raises `RefusedError` for anything but a form with one image of at most `limits.bytes` that
    arrives within `limits.seconds`.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"wanted a form (multipart/form-data) with the field {IMAGE_FIELD}",
        )
    form = UploadForm()
    try:
        async with asyncio.timeout(limits.seconds):
            await _receive(request, folder, limits, boundary, form)
    except TimeoutError as error:
        raise RefusedError(
            HTTPStatus.REQUEST_TIMEOUT, f"the upload took more than {limits.seconds:g} s"
        ) from error
    except FormParserError as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"the form is damaged: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise RefusedError(
            HTTPStatus.INSUFFICIENT_STORAGE, f"the upload cannot be stored: {reason}"
        ) from error
    if form.files != 1 or form.file is None:
        count = "an empty file" if form.files == 1 else f"{form.files or 'no'} files"
        raise RefusedError(
            HTTPStatus.BAD_REQUEST, f"wanted one image in the field {IMAGE_FIELD}, not {count}"
        )
    return form


async def _receive(
    request: Request, folder: Path, limits: ServerLimits, boundary: bytes, form: UploadForm
) -> None:
    chunks = request.stream()
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.bytes + FORM_BYTES:
        await _refuse_size(chunks, limits)

    def add_field(entry: Field) -> None:
        form.fields[_text(entry.field_name)] = _text(entry.value)

    def add_file(entry: File) -> None:
        stored = entry.actual_file_name
        entry.close()
        if _text(entry.field_name) != IMAGE_FIELD or (not entry.file_name and not entry.size):
            return
        form.files += 1
        form.name = _plain_name(_text(entry.file_name))
        if stored is not None and form.files == 1:
            suffix = PurePosixPath(form.name).suffix.lower()
            target = folder / f"input{suffix if suffix in SUFFIXES else ''}"
            form.file = Path(_text(stored)).rename(target)

    parser = FormParser(
        *("multipart/form-data", add_field, add_file, None, boundary),
        config={
            "UPLOAD_DIR": str(folder),
            "UPLOAD_DELETE_TMP": False,
            "MAX_MEMORY_FILE_SIZE": 0,
            "MAX_FIELDS": MOST_FIELDS,
            "MAX_FIELD_SIZE": MOST_FIELD_BYTES,
        },
    )
    received = 0
    try:
        async for chunk in chunks:
            received += len(chunk)
            if received > limits.bytes + FORM_BYTES:
                await _refuse_size(chunks, limits)
            parser.write(chunk)
        parser.finalize()
    finally:
        parser.close()


async def _refuse_size(chunks: AsyncIterator[bytes], limits: ServerLimits) -> None:
    dropped = 0
    async for chunk in chunks:
        dropped += len(chunk)
        if dropped > DRAINED_BYTES:
            break
    raise RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the file is too large: wanted at most {limits.bytes:,} bytes",
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _plain_name(name: str) -> str:
    """Return the last part of a path of any system, of printable characters.

    >>> _plain_name("C:\\\\photos\\\\a.jpg")
    'a.jpg'
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    path = PurePosixPath("".join(x for x in last if x.isprintable()) or "image")
    return f"{path.stem[:NAME_LENGTH]}{path.suffix[:SUFFIX_LENGTH]}"
