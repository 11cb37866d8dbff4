"""The requests that the server answers: the page, its files, and images from upload to result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from functools import partial
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from thinlens.engine.version import package_version
from thinlens.errors import RunError, UsageError
from thinlens.images.decoding import DecodeOptions, photograph_size
from thinlens.restoration.options import RestoreOptions
from thinlens.serve.image_queue import ImageQueue
from thinlens.serve.limits import ServerLimits
from thinlens.serve.networks import NetworkChoice, NetworkTable
from thinlens.serve.page import PAGE_ASSETS, error_page, served_page
from thinlens.serve.refusals import RefusedError
from thinlens.serve.same_origin import SameOrigin
from thinlens.serve.served_image import ServedImage, UploadedImage
from thinlens.serve.upload_form import UploadForm, receive_form
from thinlens.serve.views import view_size, write_view

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: the page loads nothing from elsewhere, and nothing is stored."""

RETRY_AFTER = 5
"""After which a client may try again while the queue is full."""

DISCONNECT_SECONDS = 0.5
"""Between two looks whether a client still waits for its result."""

MEDIA_TYPES = {
    **{name: f"image/{name}" for name in ("png", "jpeg", "webp", "tiff", "avif", "jxl")},
}


class ServerApp:
    """Answers requests with a queue of images and a table of networks."""

    def __init__(self, queue: ImageQueue, networks: NetworkTable, limits: ServerLimits) -> None:
        self._queue, self._networks, self._limits = queue, networks, limits

    def asgi(self, hosts: Collection[str] | None) -> Starlette:
        """Return the application; `hosts` are its names, None where it may have any."""
        routes = [
            Route("/", self.page),
            Route("/assets/{name}", self.asset),
            Route("/openapi.json", self.openapi),
            Route("/networks", self.list_networks),
            Route("/estimate", self.estimate),
            Route("/restore", self.restore, methods=["POST"]),
            Route("/jobs", self.submit, methods=["POST"]),
            Route("/jobs/{id}", self.status),
            Route("/jobs/{id}", self.remove, methods=["DELETE"]),
            Route("/jobs/{id}/preview", self.preview),
            Route("/jobs/{id}/views/{which}", self.view),
            Route("/jobs/{id}/result", self.result),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(SameOrigin, hosts=hosts)],
            exception_handlers={
                RefusedError: _refused,
                UsageError: _refused,
                RunError: _refused,
                HTTPException: _refused,
                ClientDisconnect: _refused,
            },
        )

    async def page(self, request: Request) -> Response:
        """Answer with the page."""
        content = served_page(self._networks.entries, self._networks.precisions, self._limits)
        return HTMLResponse(content, headers=HEADERS)

    async def asset(self, request: Request) -> Response:
        """Answer with a script or a style sheet of the page."""
        path = PAGE_ASSETS.get(request.path_params["name"])
        if path is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such file")
        return FileResponse(path, headers=HEADERS)

    async def openapi(self, request: Request) -> Response:
        """Answer with the description of these requests."""
        text = (Path(__file__).parent / "assets" / "openapi.json").read_text()
        document = json.loads(text)
        document["info"]["version"] = package_version()
        return _json(document)

    async def list_networks(self, request: Request) -> Response:
        """Answer with the networks that images can be restored by."""
        return _json({"networks": [entry.as_json() for entry in self._networks.entries]})

    async def estimate(self, request: Request) -> Response:
        """Answer with the expected seconds of an image of `width` and `height`."""
        query = request.query_params
        try:
            width, height = int(query["width"]), int(query["height"])
        except (KeyError, ValueError) as error:
            raise UsageError("wanted width and height in pixels") from error
        if min(width, height) < 1 or width * height > self._limits.pixels:
            raise UsageError(f"wanted a size of 1 to {self._limits.pixels} pixels")
        seconds, wait = self._queue.estimate(_choice(query), width * height)
        return _json(
            {"seconds": seconds if seconds is None else round(seconds, 3), "wait": round(wait, 3)}
        )

    async def submit(self, request: Request) -> Response:
        """Take an image, and answer with its state."""
        image = await self._submitted(request)
        return _json(self._state(image), HTTPStatus.ACCEPTED)

    async def restore(self, request: Request) -> Response:
        """Take an image, and answer with its result: for curl, and browsers without JavaScript."""
        image = await self._submitted(request)
        try:
            waiter = asyncio.wrap_future(image.finished)
            while not waiter.done():
                await asyncio.wait([waiter], timeout=DISCONNECT_SECONDS)
                if await request.is_disconnected():
                    raise ClientDisconnect
            if image.state != "done":
                raise _failure(image)
        except BaseException:
            self._queue.remove(image)
            raise
        return _result(image, BackgroundTask(self._queue.remove, image))

    async def status(self, request: Request) -> Response:
        """Answer with the state of an image."""
        return _json(self._state(self._image(request)))

    async def remove(self, request: Request) -> Response:
        """Cancel an image, and remove it with its result."""
        self._queue.remove(self._image(request))
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=HEADERS)

    async def preview(self, request: Request) -> Response:
        """Answer with the rows of the preview from `start` on."""
        start = request.query_params.get("start", "0")
        preview = self._image(request).preview
        picture = None
        if preview is not None and start.isdecimal():
            picture = await asyncio.to_thread(preview.png, int(start[:9]))
        if picture is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=HEADERS)
        return Response(picture, media_type="image/png", headers=HEADERS)

    async def view(self, request: Request) -> Response:
        """Answer with the input, enlarged, or the result, as a browser shows them."""
        image, which = self._image(request), request.path_params["which"]
        upload, size = image.upload, image.result_size
        if which not in ("input", "result"):
            raise RefusedError(HTTPStatus.NOT_FOUND, "wanted the view input or result")
        if image.state != "done" or upload is None or size is None:
            raise _failure(image)
        target = image.folder / f"{which}.view.png"
        if not target.exists():
            source = upload.path if which == "input" else image.result
            write = partial(write_view, source, target, view_size(size))
            await asyncio.wrap_future(self._queue.codecs.read(write))
        return FileResponse(target, media_type="image/png", headers=HEADERS)

    async def result(self, request: Request) -> Response:
        """Answer with the file of the result."""
        image = self._image(request)
        if image.state != "done":
            raise _failure(image)
        return _result(image)

    def _image(self, request: Request) -> ServedImage:
        return self._queue.image(request.path_params["id"])

    def _state(self, image: ServedImage) -> dict[str, Any]:
        count, seconds = self._queue.before(image)
        size = image.result_size
        view = view_size(size)[::-1] if size and image.state == "done" else None
        return {
            **image.as_json(),
            "waiting_before": count,
            "expected_wait": round(seconds, 3),
            "view_size": view,
        }

    async def _submitted(self, request: Request) -> ServedImage:
        """Receive and check an image, and let it wait for its turn."""
        image = self._queue.reserve()
        try:
            form = await receive_form(request, image.folder, self._limits)
            self._queue.submit(image, await self._upload(form))
        except BaseException:
            self._queue.remove(image)
            raise
        return image

    async def _upload(self, form: UploadForm) -> UploadedImage:
        """Check the fields of a form and the header of its image."""
        choice, chosen_format = _choice(form.fields), form.fields.get("format") or "png"
        self._networks.check(choice)
        RestoreOptions(format=chosen_format)
        path = form.file
        if path is None:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "wanted an image")
        options = DecodeOptions(self._limits.pixels)
        header = self._queue.codecs.read(partial(photograph_size, path, options))
        try:
            size = await asyncio.wrap_future(header)
        except UsageError as error:
            raise RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error).replace(str(path), form.name)
            ) from error
        return UploadedImage(form.name, path, size, choice, chosen_format)


def _choice(fields: Any) -> NetworkChoice:
    """Return the network of a form or a query."""
    network = fields.get("network")
    if not network:
        raise UsageError("wanted the field network: a name of GET /networks")
    precision, budget = fields.get("precision") or "fp32", fields.get("image_budget") or None
    text = fields.get("beta") or None
    try:
        beta = None if text is None else float(text)
    except ValueError as error:
        raise UsageError(f"beta {text!r}: wanted a number of 0 or more") from error
    return NetworkChoice(network, precision, budget, beta)


def _failure(image: ServedImage) -> RefusedError:
    """Return what is answered in place of a result."""
    if image.state == "failed":
        return RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, image.error or "it has no result")
    if image.state == "canceled":
        return RefusedError(HTTPStatus.CONFLICT, "the image was canceled")
    return RefusedError(HTTPStatus.CONFLICT, "the image is not restored yet")


def _json(content: Any, status: HTTPStatus = HTTPStatus.OK) -> JSONResponse:
    return JSONResponse(content, status, headers=HEADERS)


def _result(image: ServedImage, after: BackgroundTask | None = None) -> FileResponse:
    upload = image.upload
    if upload is None:
        raise _failure(image)
    name = RestoreOptions(format=upload.format).format_for(upload.name).name
    return FileResponse(
        *(image.result, HTTPStatus.OK, HEADERS, MEDIA_TYPES.get(name), after),
        filename=upload.result_name,
    )


async def _refused(request: Request, error: Exception) -> Response:
    """Answer with one sentence: a page for a form of a browser, else JSON."""
    status, headers = HTTPStatus.BAD_REQUEST, dict(HEADERS)
    sentence = str(error)
    if isinstance(error, RefusedError):
        status = error.status
    elif isinstance(error, RunError):
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    elif isinstance(error, HTTPException):
        status, sentence = HTTPStatus(error.status_code), error.detail
        if status == HTTPStatus.NOT_FOUND:
            sentence = "there is nothing at this address"
        headers |= error.headers or {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER)
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(error_page(escape(sentence)), status, headers=headers)
    return JSONResponse({"error": sentence}, status, headers=headers)
