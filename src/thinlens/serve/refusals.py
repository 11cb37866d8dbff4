"""Refusals: an HTTP status and the one sentence that stands beside it."""

from __future__ import annotations

from http import HTTPStatus


class RefusedError(Exception):
    """A request that is not served: a status of HTTP and one sentence.

    >>> RefusedError(HTTPStatus.NOT_FOUND, "no such image").status.value
    404
    """

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
