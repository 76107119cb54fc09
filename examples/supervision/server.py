"""The server of the configurations in the folders beside it: asyncio, on the socket
that it was given as descriptor 3; TERM means: accept no more, finish, end.

/healthz is for probes. /leak keeps a megabyte for ever, as nobody means to.
"""

import asyncio
import os
import signal
import socket

GREETING = "hello"
GENERATION = os.environ.get("BATON_GENERATION", "")

connections = set()
leaked = []


async def answer(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ")[1]
    if path == b"/leak":
        leaked.append(b"x" * (1 << 20))
    body = f"{GREETING} from worker {os.environ.get('BATON_WORKER')}\n".encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Length: %d\r\n"
        b"X-Generation: %s\r\n"
        b"Connection: close\r\n\r\n%s" % (len(body), GENERATION.encode(), body)
    )
    await writer.drain()


async def connected(reader, writer):
    connections.add(asyncio.current_task())
    try:
        await answer(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # a probe that only connects, or a client that went away
    finally:
        writer.close()
        connections.discard(asyncio.current_task())


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(connected, sock=socket.socket(fileno=3))
    await stop.wait()
    server.close()
    if connections:
        await asyncio.wait(connections)


asyncio.run(main())
