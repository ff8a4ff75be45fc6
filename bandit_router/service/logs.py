"""What a service says on stderr: lines of text or of JSON, and one line for each request.

Nothing that somebody wrote is in them: no query, body, key, user or value that an exception carries.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandit_router.events import id_time

logger = logging.getLogger(__name__)
access = logging.getLogger("bandit_router.access")
TEXT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
FORMATS = ("text", "json")
REQUEST_ID = "x-request-id"
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_IDS = ("request_id", "decision_id", "router")
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class TextLines(logging.Formatter):
    """A line of text, and the stack of an exception without the values that it carries."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # as the base calls it
        return "\n".join(f"  {line}" for line in stack_of(ei[1]))


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, process, message, ids, and what an access line counts.

    Examples
    --------
    >>> record = logging.LogRecord("bandit_router.learner", 30, "", 0, "router %s waits", ("default",), None)
    >>> line = json.loads(JsonLines().format(record))
    >>> line["level"], line["logger"], line["message"]
    ('warning', 'bandit_router.learner', 'router default waits')
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {  # Any: JSON
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= getattr(record, "said", {})
        line.setdefault("request_id", _request_id.get())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line |= {"exception": type(error).__name__, "stack": stack_of(error)}
        return json.dumps({name: value for name, value in line.items() if value is not None})


def stack_of(error: BaseException | None) -> list[str]:
    """Return where an exception came from, and its causes: kinds and places, nothing that they carry."""
    lines: list[str] = []
    while error is not None:
        lines.append(type(error).__name__)
        frames = traceback.extract_tb(error.__traceback__)
        lines += [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


def log_to_stderr(form: str = "text") -> None:
    """Let this program's log lines appear, as "text" or "json"; other libraries' only where they warn."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("uvicorn", "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Logged:
    """Gives each request an id, which its answer carries, and says one line of it when it is answered.

    The id is the caller's ``x-request-id`` where that is a plain word of up to 128 characters.

    Parameters
    ----------
    app : ASGI app
    lines : bool
        Whether there are such lines.
    """

    def __init__(self, app: ASGIApp, *, lines: bool = True) -> None:
        self._app, self._lines = app, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        told = _request_id.set(request_id)
        answer = _Answer(request_id, send)
        try:
            await self._app(scope, receive, answer)
        except Exception:
            answer.status = 500
            raise
        finally:
            if self._lines:
                answer.tell(scope)
            _request_id.reset(told)


class _Answer:
    """Sends an answer with the request's id, and keeps what a line says of it."""

    def __init__(self, request_id: str, send: Send) -> None:
        self._request_id, self._send = request_id, send
        self._began = time.perf_counter()
        self._decision_id: str | None = None
        self.status = 499  # the client went before it was answered

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers[REQUEST_ID] = self._request_id
            self.status = message["status"]
            self._decision_id = headers.get("x-router-decision-id")
        await self._send(message)

    def tell(self, scope: Scope) -> None:
        route = getattr(scope.get("route"), "path", "other")  # not the path: that may name a user
        of = self._decision_id or scope.get("path_params", {}).get("decision_id")
        said = {
            "method": scope["method"] if scope["method"].isalpha() else "other",
            "route": route,
            "status": self.status,
            "took_ms": round(1000 * (time.perf_counter() - self._began), 2),
            "request_id": self._request_id,
            "decision_id": of
            if of and id_time(of) is not None
            else None,  # what is no id may be anything
        }
        access.info(
            "%s %s %d %.1f ms %s",
            *(said[name] for name in ("method", "route", "status", "took_ms", "request_id")),
            extra={"said": said},
        )
