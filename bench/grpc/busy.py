"""Asks a daemon for its version and for a task, 100 times a second in all, until standard input ends (Debian's python3-grpcio).

Usage: busy.py SOCKET NAMESPACE TASK. Prints the 99th percentile of each in milliseconds.
"""

import sys
import threading
import time

import grpc
from wire import field

PAUSE_S = 0.01


def main():
    socket, namespace, task = sys.argv[1:4]
    channel = grpc.insecure_channel("unix:" + socket)
    calls = [
        ("/containerd.services.version.v1.Version/Version", b""),
        ("/containerd.services.tasks.v1.Tasks/Get", field(1, task)),
    ]
    metadata = [("containerd-namespace", namespace)]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    times = [[], []]
    for path, request in calls:
        channel.unary_unary(path)(request, metadata=metadata)
    while not ended.is_set():
        for at, (path, request) in enumerate(calls):
            start = time.perf_counter()
            channel.unary_unary(path)(request, metadata=metadata)
            times[at].append((time.perf_counter() - start) * 1000)
            time.sleep(PAUSE_S)
    print(*(sorted(each)[int(len(each) * 0.99)] for each in times))


main()
