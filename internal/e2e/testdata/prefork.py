# A worker of a blocking prefork server: it serves one request at a time on each of
# its sockets, and each takes as many seconds as argv[1] says. It leaves the flags of the
# sockets as it finds them, and dies on its signal.
import os, select, socket, sys, threading, time

took = float(sys.argv[1])
answer = ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Generation: %s\r\nX-Baton-Pid: %d\r\n\r\nok"
          % (os.environ["BATON_GENERATION"], os.getpid())).encode()


def serve(fd):
    listener = socket.socket(fileno=fd)
    while True:
        try:
            c, _ = listener.accept()
        except BlockingIOError:
            select.select([listener], [], [])
            continue
        try:
            if c.recv(4096):
                time.sleep(took)
                c.sendall(answer)
        except OSError:
            pass  # the client has gone
        c.close()


for fd in range(3, 3 + int(os.environ["LISTEN_FDS"])):
    threading.Thread(target=serve, args=[fd]).start()
