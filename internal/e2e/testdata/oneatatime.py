# A server that takes one request at a time, each for as long as argv[1] says, and
# says nothing of being ready.
import os, socket, sys, time

took = float(sys.argv[1])
listener = socket.socket(fileno=3)
listener.setblocking(True)
while True:
    c, _ = listener.accept()
    if c.recv(4096):
        time.sleep(took)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Generation: "
                  + os.environ["BATON_GENERATION"].encode() + b"\r\nX-Baton-Pid: %d\r\n\r\nok" % os.getpid())
    c.close()
