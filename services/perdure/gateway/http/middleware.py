"""Around every request: errors become problem documents, and what happened is counted and timed.

Contract: no exception and no framework error page reaches a client; an unexpected error is answered with an id that stands in
the log beside the traceback, and with nothing of the traceback.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from time import perf_counter
from uuid import uuid4

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Histogram
from pymongo.errors import PyMongoError

from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger
from perdure.checkpoint.errors import NotebookError
from perdure.gateway.http.bodies import too_large
from perdure.gateway.http.problems import RequestProblem, store_unavailable
from perdure.schemas.problem import MEDIA_TYPE

log = logger(__name__)

DURATION = Histogram(
    "perdure_gateway_request_seconds",
    "Time from the request's headers to its answer.",
    ("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
REFUSED_LATE_S = 0.25
"""A refusal over a limit is answered so late: whoever repeats without a pause costs the others little."""
SECRET_BELOW: web.AppKey[tuple[str, ...]] = web.AppKey("secret_below", tuple)
"""Paths below which everything is secret, such as ``/answer/``; set by the composition root."""


def shown_path(request: web.Request) -> str:
    """The path of a request as logs and problems may have it: without what follows a path of ``SECRET_BELOW``."""
    path = request.path
    for public in request.app[SECRET_BELOW]:
        if path.startswith(public) and path != public:
            return f"{public}..."
    return path


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as a problem, and observe the duration."""
    started = perf_counter()
    response: web.StreamResponse
    try:
        response = await handler(request)
    except RequestProblem as problem:
        if problem.status == HTTPStatus.TOO_MANY_REQUESTS:
            await asyncio.sleep(REFUSED_LATE_S)
        response = problem_response(request, problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = problem_response(request, _of_framework(request, error))
    except PyMongoError as error:
        known = store_unavailable() if is_outage(error) else None
        response = problem_response(request, known or _unexpected(request, error))
    except NotebookError as error:
        log.exception("gateway.damaged_state", path=shown_path(request))
        response = problem_response(request, RequestProblem("damaged-state", str(error)))
    except Exception as error:
        response = problem_response(request, _unexpected(request, error))
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    DURATION.labels(request.method, route, str(response.status)).observe(perf_counter() - started)
    return response


def problem_response(request: web.Request, error: RequestProblem) -> web.Response:
    """A problem as the answer to a request."""
    problem = error.problem.model_copy(update={"instance": shown_path(request)})
    body = problem.model_dump_json(exclude_defaults=True)
    return web.Response(body=body.encode(), status=error.status, headers=error.headers, content_type=MEDIA_TYPE)


def _of_framework(request: web.Request, error: web.HTTPException) -> RequestProblem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return RequestProblem(
            "method-not-allowed",
            f"{shown_path(request)} takes {allowed}, not {request.method}.",
            headers={"Allow": allowed},
        )
    if isinstance(error, web.HTTPNotFound):
        return RequestProblem(
            "unknown-route", f"There is nothing at {shown_path(request)}; GET /openapi.json lists what there is."
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return too_large(request.client_max_size, None)
    return RequestProblem("bad-request", error.text or error.reason, status=error.status)


def _unexpected(request: web.Request, error: Exception) -> RequestProblem:
    error_id = uuid4().hex
    log.error(
        "gateway.internal_error", error_id=error_id, method=request.method, path=shown_path(request), exc_info=error
    )
    return RequestProblem(
        "internal-error", f"Something failed that should not. The gateway's log has it under {error_id}."
    )
