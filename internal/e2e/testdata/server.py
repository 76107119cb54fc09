# A server of the plainest kind, one request at a time, which learns its socket and
# says that it is ready by the protocol named in argv[1]. With "hostile" behind it, it
# says what no launcher wants instead.
import array, json, os, socket, sys, time

kind, hostile = sys.argv[1], "hostile" in sys.argv
env = os.environ


def number():
    if kind == "systemd":
        return 3
    if kind == "server-starter":
        return int(env["SERVER_STARTER_PORT"].split(";")[0].rsplit("=", 1)[1])
    if kind == "einhorn":
        assert int(env["EINHORN_MASTER_PID"]) == os.getppid()
        return int(env["EINHORN_FD_0"])
    if kind == "socketmaster":
        return int(env["EINHORN_FDS"].split()[0])
    return int(sys.argv[2])  # {{fd "web"}}


def say(ready_fd):
    garbage = [b"\x00" * 10, b"{" * 70000, b"\xff\xfe\n" * 100, b'{"command": 7}\n', b'{"cmd":"NODE_CLUSTER","seq":[]}\n']
    if kind == "systemd":
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        to = "\0" + env["NOTIFY_SOCKET"][1:]
        r, w = os.pipe()
        for g in garbage if hostile else [b"READY=1"]:
            try:
                s.sendmsg([g], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [r, w]))] if hostile else [], 0, to)
            except OSError:
                pass  # too long for a datagram
    elif kind == "einhorn":
        for g in garbage if hostile else [json.dumps({"command": "worker:ack", "pid": os.getpid()}).encode() + b"\n"]:
            s = socket.socket(socket.AF_UNIX)
            s.connect(env["EINHORN_SOCK_PATH"])
            try:
                s.sendall(g)
            except OSError:
                pass  # it hung up in the middle
            s.close()
    elif kind == "s6":
        os.write(ready_fd, b"starting" * 100 if hostile else b"almost\n")
        os.close(ready_fd)
    elif kind == "tableflip":
        os.write(3, b"\x07\x2a*")
        os.close(3)
    elif kind == "node":
        channel = socket.socket(fileno=int(env["NODE_CHANNEL_FD"]))
        for g in garbage:
            try:
                channel.sendmsg([g + b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
            except OSError:
                break  # it hung up
    sys.stdout.flush()


if hostile:
    say(int(sys.argv[3]) if kind == "s6" else None)
    print("hostile: all said", flush=True)
    while True:
        time.sleep(1000)

listener = socket.socket(fileno=number())
listener.setblocking(True)
say(int(sys.argv[3]) if kind == "s6" else None)
while True:
    c, _ = listener.accept()
    if c.recv(4096):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Generation: "
                  + env["BATON_GENERATION"].encode() + b"\r\n\r\nok")
    c.close()
