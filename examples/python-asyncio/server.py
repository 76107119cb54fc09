"""A server on asyncio that takes its listening socket from whoever started it.

Two things are for baton, or for systemd, whose convention this is: the socket is
descriptor 3, and TERM means: accept no more, finish what there is, end.
"""

import asyncio
import os
import signal
import socket

FIRST_SOCKET = 3  # sd_listen_fds(3)
GENERATION = os.environ.get("BATON_GENERATION", "")

connections = set()


async def answer(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ")[1]
    if path.startswith(b"/slow"):
        await asyncio.sleep(0.3)
    body = b"hello from asyncio\n"
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
        pass  # the client went away
    finally:
        writer.close()
        connections.discard(asyncio.current_task())


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(connected, sock=socket.socket(fileno=FIRST_SOCKET))
    await stop.wait()
    server.close()
    if connections:
        await asyncio.wait(connections)


asyncio.run(main())
