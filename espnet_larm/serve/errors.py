"""Errors as OpenAI's clients read them: a status, and JSON with a sentence."""

from typing import NamedTuple

from starlette.responses import JSONResponse

INVALID, NO_KEY, OVERLOADED, FAULT = (
    *("invalid_request_error", "authentication_error"),
    *("overloaded_error", "server_error"),
)
# Whoever is refused for want of room may try again after so long, in seconds.
RETRY_S = 1


class Problem(NamedTuple):
    """Kind of an error: status of HTTP, OpenAI's type, and a word that programs can tell it by."""

    status: int
    type: str
    code: str


WRONG = Problem(400, INVALID, "invalid_value")
WRONG_AUDIO = Problem(400, INVALID, "invalid_audio")
WRONG_KEY = Problem(401, NO_KEY, "invalid_api_key")
WRONG_ORIGIN = Problem(403, INVALID, "wrong_origin")
NO_MODEL = Problem(404, INVALID, "model_not_found")
NO_STREAMS = Problem(404, INVALID, "no_streams")
STALLED = Problem(408, INVALID, "upload_stalled")
TOO_LARGE = Problem(413, INVALID, "file_too_large")
WRONG_BODY = Problem(415, INVALID, "unsupported_media_type")
CLIENT_GONE = Problem(499, INVALID, "client_gone")
FULL = Problem(503, OVERLOADED, "server_full")
BROKEN = Problem(500, FAULT, "server_error")


class RequestError(Exception):
    """A request cannot be answered.

    Args:
        problem: What kind of error it is.
        message: The sentence for whoever asked.
        param: Name of the form field that is wrong.
    """

    def __init__(self, problem: Problem, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.problem, self.message, self.param = problem, message, param

    def response(self) -> JSONResponse:
        """The answer that says so."""
        headers = {}
        if self.problem == FULL:
            headers["Retry-After"] = str(RETRY_S)
        if self.problem == WRONG_KEY:
            headers["WWW-Authenticate"] = "Bearer"
        return error_response(self.problem, self.message, self.param, headers)


def error_response(
    problem: Problem, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as JSON, in OpenAI's form.

    It ends the connection: what the client still sends of a body that nobody wants would be read for nothing.
    """
    error = {"message": message, "type": problem.type, "param": param, "code": problem.code}
    return JSONResponse({"error": error}, problem.status, {**(headers or {}), "Connection": "close"})
