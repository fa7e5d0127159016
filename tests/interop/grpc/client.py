"""A neutral gRPC client (Debian's python3-grpcio, on gRPC's C core) that drives a server over a unix socket.

Usage: client.py SOCKET SCENARIO [N]. Prints one JSON object. The messages are written by hand: no generated code needed.
"""

import json
import sys
import threading
import time

import grpc

CONTENT = "/containerd.services.content.v1.Content/"
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_metadata_size", 256 << 10),
]


def varint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def info(digest):
    return field(1, digest)


def read(size, digest="x"):
    return field(1, digest) + field(3, size)


def write(action, data=b"", ref=""):
    return (field(1, action) if action else b"") + (field(2, ref) if ref else b"") + (field(6, data) if data else b"")


class Client:
    def __init__(self, socket, options=()):
        self.channel = grpc.insecure_channel("unix:" + socket, options=OPTIONS + list(options))
        self.info = self.channel.unary_unary(CONTENT + "Info")
        self.delete = self.channel.unary_unary(CONTENT + "Delete")
        self.read = self.channel.unary_stream(CONTENT + "Read")
        self.write = self.channel.stream_stream(CONTENT + "Write")

    def unary_ms(self, count):
        """Milliseconds in which nine of ten unary calls are answered: a busy machine stops any process now and then."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self.info(info("d"))
            times.append(time.perf_counter() - start)
        return sorted(times)[int((count - 1) * 0.9)] * 1000


def failure(call):
    try:
        call()
        return None
    except grpc.RpcError as e:
        return {
            "code": e.code().name,
            "details": e.details(),
            "bin": sum(len(v) for k, v in e.trailing_metadata() if k == "grpc-status-details-bin"),
        }


def pending(client, n):
    """N pending calls on one connection, unary calls beside them, then a cancel of all."""
    calls = [client.delete.future(info("d")) for _ in range(n)]
    time.sleep(1)
    client.unary_ms(100)
    unary = client.unary_ms(200)
    for call in calls:
        call.cancel()
    return {"pending": n, "unary_ms": unary, "cancelled": sum(call.cancelled() for call in calls)}


def cancels(client, n):
    for i in range(n):
        call = client.read(read(1 << 40))
        if i % 2 == 0:
            next(call)
        call.cancel()
    return {"cancels": n, "unary_ms": client.unary_ms(50)}


def sequential(client, n):
    total = 0
    for _ in range(n):
        for message in client.read(read(2 << 10, "small")):
            total += len(message)
    return {"streams": n, "bytes": total}


def streams(client, n):
    """400 MB over N streams at once."""
    totals = [0] * n

    def run(i):
        for message in client.read(read((400 << 20) // n)):
            totals[i] += len(message)

    start = time.perf_counter()
    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    return {"streams": n, "bytes": sum(totals), "mb_per_s": sum(totals) / 1e6 / seconds}


def unread(client, n):
    """One reader beside N streams nobody reads."""
    idle = [client.read(read(1 << 40)) for _ in range(n)]
    for call in idle:
        next(call)
    start = time.perf_counter()
    total = sum(len(message) for message in client.read(read(100 << 20)))
    seconds = time.perf_counter() - start
    unary = client.unary_ms(50)
    for call in idle:
        call.cancel()
    return {"unread": n, "bytes": total, "seconds": seconds, "unary_ms": unary}


def slow(client, n):
    """A reader that waits between messages."""
    total = 0
    for message in client.read(read(n << 20)):
        total += len(message)
        time.sleep(0.002)
    return {"bytes": total}


def upload(client, n):
    """N MiB up in messages of 1 MiB, one answer behind the half-close."""
    block = bytes(1 << 20)
    start = time.perf_counter()
    answers = list(client.write(iter([write(1, block)] * n)))
    seconds = time.perf_counter() - start
    return {"answers": len(answers), "mb_per_s": n * 1.048576 / seconds}


def largest(client, _):
    """A message of exactly 16 MiB each way, and of one byte more."""
    up = len(list(client.write(iter([write(1, bytes((16 << 20) - 7))]))))
    over = failure(lambda: list(client.write(iter([write(1, bytes((16 << 20) - 6))]))))
    down = [len(message) for message in client.read(read((16 << 20) - 5, "largest"))]
    down_over = failure(lambda: list(client.read(read((16 << 20) - 4, "largest"))))
    return {"up": up, "over": over, "down": down, "down_over": down_over}


def bodies(client, _):
    """Bodies around the window's and the frame's size, each way, echoed by their length."""
    good = 0
    for size in [0, 1, 16379, 16384, 16385, 65530, 65535, 65536, 65537, 131072, 1 << 20, 3 << 20]:
        answers = list(client.write(iter([write(1, bytes(size))])))
        wanted = field(4, size) if size else b""
        good += any(wanted in answer for answer in answers)
        good += sum(len(message) for message in client.read(read(size, "exact"))) >= size
    return {"good": good}


def half_close(client, _):
    """An answer for each request while the stream is open, and one behind the half-close."""
    queue = []
    ready = threading.Condition()

    def requests():
        while True:
            with ready:
                while not queue:
                    ready.wait()
                item = queue.pop(0)
            if item is None:
                return
            yield item

    def put(item):
        with ready:
            queue.append(item)
            ready.notify()

    call = client.write(requests())
    seen = 0
    for _ in range(5):
        put(write(2, b"ab"))
        next(call)
        seen += 1
    put(None)
    rest = len(list(call))
    return {"during": seen, "behind": rest, "code": call.code().name}


def errors(client, _):
    return {
        "details": failure(lambda: client.info(info("bad"))),
        "deadline": failure(lambda: client.delete(info("d"), timeout=0.1)),
        "method": failure(lambda: client.channel.unary_unary(CONTENT + "Nope")(b"")),
        "service": failure(lambda: client.channel.unary_unary("/a.B/C")(b"")),
    }


def metadata(client, _):
    response, call = client.info.with_call(
        info("metadata"), metadata=[("x-text", "a"), ("x-text", "b"), ("x-data-bin", bytes(range(256)))]
    )
    return {
        "head": [v for k, v in call.initial_metadata() if k == "x-head"],
        "tail": [list(v) for k, v in call.trailing_metadata() if k == "x-tail-bin"],
        "size": len(response),
    }


def keepalive(client, _):
    """A connection that pings each 100 ms beside a pending call stays up."""
    call = client.delete.future(info("d"))
    time.sleep(1.2)
    unary = client.unary_ms(20)
    done = call.done()
    call.cancel()
    return {"done": done, "unary_ms": unary}


def main():
    socket, scenario = sys.argv[1], sys.argv[2]
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    options = []
    if scenario == "keepalive":
        options = [
            ("grpc.keepalive_time_ms", 100),
            ("grpc.keepalive_timeout_ms", 1000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_time_between_pings_ms", 100),
        ]
    result = globals()[scenario](Client(socket, options), n)
    print(json.dumps(result))


main()
