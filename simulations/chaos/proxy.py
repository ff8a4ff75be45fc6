"""Links: TCP proxies between one worker and one server, on which the weather may turn bad."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from simulations.chaos.servers import HOST

CHUNK = 65_536  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What becomes of bytes on a link.

    Attributes
    ----------
    delay_s : float
        How long every piece is held back, on average [s].
    spread : float
        By which share of itself a delay may differ from that.
    bytes_per_s : float, optional
        How fast they flow.
    cut : bool
        Connections are ended, new ones at once.
    swallows_requests, swallows_answers : bool
        Bytes that the worker, or the server, sends arrive nowhere while the connection seems open.
    """

    delay_s: float = 0.0
    spread: float = 0.5
    bytes_per_s: float | None = None
    cut: bool = False
    swallows_requests: bool = False
    swallows_answers: bool = False

    @property
    def swallows(self) -> bool:
        """Whether bytes are lost, so that no connection of this time can be used after it."""
        return self.swallows_requests or self.swallows_answers


CLEAR = Weather()
DELAYED = Weather(delay_s=0.15)
SLOW = Weather(bytes_per_s=20_000)
CUT = Weather(cut=True)
HALF_OPEN = Weather(swallows_requests=True, swallows_answers=True)
DEAF = Weather(swallows_answers=True)  # the server does what it is asked, and nobody hears of it


class Link:
    """A port of this machine that leads to another one.

    Parameters
    ----------
    target : int
        The port of the server.
    seed : int
        Of the delays.
    """

    def __init__(self, target: int, *, seed: int) -> None:
        self.target, self.port, self.weather = target, 0, CLEAR
        self._rng = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop

    async def listen(self) -> asyncio.Server:
        """Begin to accept connections on a free port."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def turn(self, weather: Weather) -> None:
        """Change the weather; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._turn, weather)

    def _turn(self, weather: Weather) -> None:
        ends_all = weather.cut or (self.weather.swallows and not weather.swallows)
        self.weather = weather
        for writer in self._open if ends_all else ():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._held(writer), suppress(asyncio.CancelledError):  # at the end, which is no error
            if self.weather.cut:
                return
            try:
                up_reader, up_writer = await asyncio.open_connection(HOST, self.target)
            except OSError:
                return
            with self._held(up_writer):
                asked = asyncio.ensure_future(self._pump(reader, up_writer, answers=False))
                answered = asyncio.ensure_future(self._pump(up_reader, writer, answers=True))
                await asyncio.wait({asked, answered}, return_when=asyncio.FIRST_COMPLETED)
                asked.cancel()
                answered.cancel()

    @contextmanager
    def _held(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._open.add(writer)
        try:
            yield
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(CHUNK):
                weather = self.weather
                if weather.delay_s:
                    share = weather.spread
                    await asyncio.sleep(weather.delay_s * self._rng.uniform(1 - share, 1 + share))
                if weather.bytes_per_s:
                    await asyncio.sleep(len(piece) / weather.bytes_per_s)
                now = self.weather
                if not (now.swallows_answers if answers else now.swallows_requests):
                    writer.write(piece)
                    await writer.drain()


@contextmanager
def linked(*links: Link) -> Iterator[None]:
    """Let links lead to their servers, from a thread of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chaos-links", daemon=True)
    thread.start()
    servers: list[asyncio.Server] = []
    try:
        for link in links:
            servers.append(asyncio.run_coroutine_threadsafe(link.listen(), loop).result(10))
        yield
    finally:
        for server in servers:
            loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
