"""The Python `websockets` library as a peer: `peer.py server CERT KEY` or `peer.py client URL CA`.

A server prints the addresses of ws:// and wss://, a client one line a case. The cases are those of peer.mjs and of
tests/examples/interop.rs.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

MEBIBYTE = bytes(n % 251 for n in range(1024 * 1024))


async def serve_one(socket):
    path = socket.request.path
    if path == "/ping":
        await (await socket.ping(b"are you there"))
        await socket.send("pong")
    elif path == "/fragments":
        await socket.send(["frag", "men", "ted"])
    elif path == "/subprotocol":
        await socket.send(socket.subprotocol)
    try:
        async for message in socket:
            if path == "/close":
                await socket.close(4001, "server")
                return
            await socket.send(message)
    except ConnectionClosed:
        pass


def refuse(connection, request):
    return connection.respond(401, "no token\n") if request.path == "/refuse" else None


def subprotocol(_, offered):
    return "v2" if "v2" in offered else None


async def server(cert, key):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    options = dict(process_request=refuse, select_subprotocol=subprotocol, max_size=2**22)
    async with serve(serve_one, "127.0.0.1", 0, **options) as plain:
        async with serve(serve_one, "127.0.0.1", 0, ssl=tls, **options) as secure:
            ports = [one.sockets[0].getsockname()[1] for one in (plain, secure)]
            print("ws://127.0.0.1:{} wss://127.0.0.1:{}".format(*ports), flush=True)
            await asyncio.get_running_loop().create_future()


async def client(url, ca):
    tls = ssl.create_default_context(cafile=ca) if url.startswith("wss") else None

    def open(path, **options):
        return connect(url + path, ssl=tls, max_size=2**22, **options)

    async def echo(message, sent=None):
        async with open("/echo") as socket:
            await socket.send(message if sent is None else sent)
            got = await socket.recv()
            assert got == message, f"got {got[:40]!r}"

    async def ping_to_server():
        async with open("/echo") as socket:
            await asyncio.wait_for(await socket.ping(b"hello?"), 5)

    async def ping_from_server():
        async with open("/ping") as socket:
            got = await socket.recv()
            assert got == "pong", got

    async def close_by_client():
        async with open("/echo") as socket:
            await socket.close(4000, "client")
            assert socket.close_code == 4000, socket.close_code

    async def close_by_server():
        async with open("/close") as socket:
            await socket.send("now")
            try:
                await socket.recv()
                raise AssertionError("a message")
            except ConnectionClosed as end:
                assert (end.rcvd.code, end.rcvd.reason) == (4001, "server"), end

    async def negotiation():
        async with open("/subprotocol", subprotocols=["v1", "v2"]) as socket:
            got = await socket.recv()
            assert (socket.subprotocol, got) == ("v2", "v2"), (socket.subprotocol, got)

    async def refusal():
        try:
            async with open("/refuse"):
                raise AssertionError("it was accepted")
        except InvalidStatus as error:
            assert error.response.status_code == 401, error

    cases = {
        "text": lambda: echo("grüße"),
        "binary": lambda: echo(bytes(range(256))),
        "1 MiB": lambda: echo(MEBIBYTE),
        "fragmented": lambda: echo("fragmented", ["frag", "men", "ted"]),
        "ping to server": ping_to_server,
        "ping from server": ping_from_server,
        "close by client": close_by_client,
        "close by server": close_by_server,
        "subprotocol": negotiation,
        "401": refusal,
    }
    for name, case in cases.items():
        try:
            await asyncio.wait_for(case(), 20)
            print(f"{name}\tok", flush=True)
        except Exception as error:
            print(f"{name}\t{type(error).__name__}: {error}", flush=True)


asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
