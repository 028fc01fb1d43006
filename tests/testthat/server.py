"""Serves a folder on localhost, badly: what a path's query asks for. Prints its port.

?stall      sends half and then nothing;   ?truncate   closes after half;   ?once=truncate   only the first time
?error      500;   ?once=error   500 the first time;   ?whole   ignores Range
Files are found by their name, whatever folder is asked for.
"""
import http.server
import os
import re
import sys
import time

folder, log = sys.argv[1], sys.argv[2]
seen = set()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        name = os.path.basename(path)
        fault = faults.get(name, query)
        if fault.startswith("once="):
            fault = "" if name in seen else fault[5:]
        seen.add(name)
        with open(log, "a") as out:
            out.write("%s %s\n" % (self.path, self.headers.get("Range", "")))
        if fault == "error":
            return self.send_error(500)
        try:
            data = open(os.path.join(folder, name), "rb").read()
        except OSError:
            return self.send_error(404)
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted.group(1)) if wanted and fault != "whole" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (start, len(data) - 1, len(data)))
        data = data[start:]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("stall", "truncate"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(20)
            return None
        self.wfile.write(data)
        return None


faults = dict(argument.split(":", 1) for argument in sys.argv[3:])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
