"""Many visitors at once: each looks at the page, then uploads, asks and reads the answer, again and again."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests.demo_visitor import as_file

BUSY = ("Queue is full", "many files are here already", "Service Unavailable")
"""What a visitor may be told instead of an answer, always with status 503."""


@dataclass
class Crowd:
    """What came of it."""

    answered: int = 0
    busy: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Anything else than a right answer or a clean refusal."""
    slowest_refusal_seconds: float = 0.0


class _BusyError(Exception):
    pass


async def visit(url: str, *, users: int, rounds: int) -> Crowd:
    """``users`` at once, each asking ``rounds`` times, with content and words of their own."""
    crowd = Crowd()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as visitor:
        await asyncio.gather(*(_user(visitor, crowd, user, rounds) for user in range(users)))
    return crowd


async def _user(visitor: httpx.AsyncClient, crowd: Crowd, user: int, rounds: int) -> None:
    page = await visitor.get("/")
    if page.status_code != 200:
        crowd.wrong.append(f"page {page.status_code}")
    for number in range(rounds):
        begun = time.monotonic()
        try:
            told = await _once(visitor, user, number)
            if told:
                crowd.wrong.append(told)
            else:
                crowd.answered += 1
        except _BusyError as busy:
            crowd.busy[str(busy)] += 1
            waited = time.monotonic() - begun
            crowd.slowest_refusal_seconds = max(crowd.slowest_refusal_seconds, waited)
        except httpx.HTTPError as error:
            crowd.wrong.append(f"{type(error).__name__}: {error}")


async def _once(visitor: httpx.AsyncClient, user: int, number: int) -> str:
    """What was wrong; nothing if the answer was right."""
    content = f"clip {user} {number} ".encode() * (100 + user)
    files = {"files": (f"{user}.mp4", content)}
    upload = _let_through(await visitor.post("/gradio_api/upload", files=files))
    if upload.status_code != 200:
        return f"upload {upload.status_code}: {upload.text}"
    word = f"{user}-{number}"
    message = {"data": [as_file(upload.json()[0]), word]}
    joined = _let_through(await visitor.post("/gradio_api/call/classify", json=message))
    if joined.status_code != 200:
        return f"call {joined.status_code}: {joined.text}"
    answer = await visitor.get(f"/gradio_api/call/classify/{joined.json()['event_id']}")
    lines = [line for line in answer.text.splitlines() if line.startswith("data: [")]
    if not lines:
        return f"answer {answer.status_code}: {answer.text[:200]}"
    got = json.loads(lines[-1].removeprefix("data: "))[0]
    return "" if got == {"size": len(content), "word": word} else f"wrong answer: {got}"


def _let_through(answer: httpx.Response) -> httpx.Response:
    if answer.status_code == 503:
        for words in BUSY:
            if words in answer.text:
                raise _BusyError(words)
    return answer
