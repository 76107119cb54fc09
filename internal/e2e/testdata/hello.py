# What gunicorn serves.
import os, time

headers = [("Content-Length", "2"), ("X-Generation", os.environ["BATON_GENERATION"]), ("X-Baton-Pid", str(os.getpid()))]


def app(environ, start_response):
    time.sleep(0.01)
    start_response("200 OK", headers)
    return [b"ok"]
