"""The widgets behind a reverse proxy that serves ComfyUI below a path, as JupyterHub, nginx and SwarmUI do."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiohttp import ClientSession, WSMsgType, web
from frontend import open_frontend
from modality_forcing.tasks.workflows.builder import Link, Node
from widgets import await_ready, open_graph, run
from yarl import URL

PREFIX = "/far/away"
PREVIEWS = ("ModalityForcingPreviewDepth", "ModalityForcingPreviewPointCloud")
# Frontends 1.32.2 to 1.35 ignore the path they are served from and stay blank (ComfyUI_frontend, issue 6995).
BLANK_BELOW_A_PATH = ((1, 32, 2), (1, 36, 0))
PER_HOP = {"connection", "content-length", "content-encoding", "host", "keep-alive", "transfer-encoding"}


class Proxy:
    """Forwards HTTP and WebSockets from below PREFIX to a server, and nothing else; runs in a thread of its own."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.stray: list[str] = []  # requests beside PREFIX
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        self._session = ClientSession(auto_decompress=True)
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{rest:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}{PREFIX}/"

    async def _stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        # The encoded path: a %2F must stay one.
        path = request.raw_path
        if not path.startswith(PREFIX + "/"):
            self.stray.append(path)
            raise web.HTTPNotFound
        target = self.target + path.removeprefix(PREFIX)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._join(request, target)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in PER_HOP | {"origin"}}
        async with self._session.request(
            request.method, URL(target, encoded=True), headers=headers, data=await request.read(), allow_redirects=False
        ) as reply:
            kept = {name: value for name, value in reply.headers.items() if name.lower() not in PER_HOP}
            return web.Response(status=reply.status, headers=kept, body=await reply.read())

    async def _join(self, request: web.Request, target: str) -> web.WebSocketResponse:
        near = web.WebSocketResponse(max_msg_size=0)
        await near.prepare(request)
        async with self._session.ws_connect(target, max_msg_size=0) as far:

            async def copy(source, sink) -> None:
                async for message in source:
                    send = sink.send_bytes if message.type == WSMsgType.BINARY else sink.send_str
                    await send(message.data)

            both = [asyncio.ensure_future(copy(near, far)), asyncio.ensure_future(copy(far, near))]
            with suppress(ConnectionError):
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
        return near


@pytest.fixture
def proxied(browser, server, renderer, tmp_path) -> Iterator[tuple]:
    """The proxy, and the frontend seen through it."""
    with Proxy(server.address) as proxy, open_frontend(browser, server, renderer, tmp_path, proxy.address) as frontend:
        oldest, fixed = BLANK_BELOW_A_PATH
        if oldest <= frontend.version < fixed:
            pytest.skip(f"frontend {'.'.join(map(str, frontend.version))} itself stays blank below a path")
        frontend.await_graph()
        frontend.errors.clear()  # of files that a user may have and this one has not
        yield proxy, frontend


def test_previews_work_below_a_path(proxied, object_info, scene):
    proxy, frontend = proxied
    asked: list[str] = []
    frontend.page.on("request", lambda request: asked.append(request.url))
    previews = [
        Node(name, name, {"geometry": Link("geometry", "geometry")}, column=1 + i, width=480, height=520)
        for i, name in enumerate(PREVIEWS)
    ]
    open_graph(frontend, object_info, [*scene.nodes(), *previews])
    run(frontend)
    await_ready(frontend, count=len(PREVIEWS))
    data = [url for url in asked if "/modality_forcing/preview?" in url]
    assert len(data) >= len(PREVIEWS) and all(url.startswith(proxy.address) for url in data), asked
    ours = [path for path in proxy.stray if "modality" in path.lower()]
    assert not ours, ours
    # The frontend itself looks for the tab's icon beside the path.
    assert not [error for error in frontend.errors if "favicon" not in error]
