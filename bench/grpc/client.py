"""The neutral client of the gRPC benchmark (Debian's python3-grpcio): calls Version and prints each call's time.

Usage: client.py SOCKET CALLS IN_FLIGHT. Prints one JSON array of milliseconds, in order of completion, and the seconds in all.
"""

import json
import sys
import threading
import time

import grpc


def main():
    socket, calls, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    channel = grpc.insecure_channel("unix:" + socket)
    version = channel.unary_unary("/containerd.services.version.v1.Version/Version")
    for _ in range(200):
        version(b"")
    times = []

    def run():
        for _ in range(calls // in_flight):
            start = time.perf_counter()
            version(b"")
            times.append((time.perf_counter() - start) * 1000)

    start = time.perf_counter()
    threads = [threading.Thread(target=run) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - start, "ms": times}))


main()
