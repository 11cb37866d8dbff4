"""Reading of an upload: a form with one image, straight into its folder, within the limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
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
    if form.files != 1 or form.file is None or not form.file.stat().st_size:
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

    received = 0
    with _FormReader(folder, boundary, form) as reader:
        async for chunk in chunks:
            received += len(chunk)
            if received > limits.bytes + FORM_BYTES:
                await _refuse_size(chunks, limits)
            reader.parser.write(chunk)
        reader.parser.finalize()


class _FormReader:
    """Receives the parts of a form: fields in memory, the image in a file, which it closes."""

    def __init__(self, folder: Path, boundary: bytes, form: UploadForm) -> None:
        self._folder, self._form = folder, form
        self._file: BinaryIO | None = None
        self._header = self._content = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._value = b""
        self._parts = 0
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_content,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _begin(self) -> None:
        self._headers, self._field, self._value = {}, None, b""
        self._parts += 1
        if self._parts > MOST_FIELDS:
            raise FormParserError(f"it has more than {MOST_FIELDS} fields")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_content(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._content
        self._header = self._content = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name, file_name = _text(options.get(b"name")), options.get(b"filename")
        if file_name is None:
            self._field = name
        elif name == IMAGE_FIELD and file_name:
            self._form.files += 1
            self._form.name = _plain_name(_text(file_name))
            suffix = PurePosixPath(self._form.name).suffix.lower()
            path = self._folder / f"input{suffix if suffix in SUFFIXES else ''}"
            if self._form.files == 1:
                self._file = path.open("wb")
                self._form.file = path

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        elif self._field is not None:
            self._value += data[start:end]
            if len(self._value) > MOST_FIELD_BYTES:
                raise FormParserError(f"a field has more than {MOST_FIELD_BYTES} bytes")

    def _end(self) -> None:
        self._close()
        if self._field is not None:
            self._form.fields[self._field] = _text(self._value)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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
