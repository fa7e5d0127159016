"""Makes containers as containerd-stress does, with the same client for every daemon (Debian's python3-grpcio).

Usage: stress.py SOCKET NAMESPACE CHAIN SPEC CONTAINERS WORKERS PREFIX. SPEC is a file with a spec in which every `template` stands for
the container's id. Prints the milliseconds that all of them took.
"""

import sys
import threading
import time

import grpc
from wire import field, fields

SNAPSHOTTER = "overlayfs"
SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


def main():
    socket, namespace, chain, spec_file, count, workers, prefix = sys.argv[1:8]
    with open(spec_file) as file:
        template = file.read()
    left = iter(range(int(count)))
    lock = threading.Lock()
    failures = []

    def worker():
        # A channel each: python shares one connection among equal channels unless told otherwise.
        channel = grpc.insecure_channel("unix:" + socket, options=[("grpc.use_local_subchannel_pool", 1)])

        def call(name, request):
            path = "/containerd.services.%s" % name
            return channel.unary_unary(path)(request, metadata=[("containerd-namespace", namespace)], timeout=120)

        while True:
            with lock:
                at = next(left, None)
            if at is None or failures:
                return
            try:
                run_one(call, chain, template, "%s-%d" % (prefix, at))
            except grpc.RpcError as error:
                failures.append(str(error))

    start = time.perf_counter()
    threads = [threading.Thread(target=worker) for _ in range(int(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    if failures:
        sys.exit(failures[0])
    print(took * 1000)


def run_one(call, chain, template, name):
    snapshot = field(1, SNAPSHOTTER) + field(2, name)
    # No lease is held: the label keeps a collection from taking it before its container is there.
    root = field(4, field(1, "containerd.io/gc.root") + field(2, "bench"))
    prepared = call("snapshots.v1.Snapshots/Prepare", snapshot + field(3, chain) + root)
    mounts = b"".join(field(3, mount) for number, mount in fields(prepared) if number == 1)
    spec = field(1, SPEC_TYPE) + field(2, template.replace("template", name))
    container = (
        field(1, name)
        + field(4, field(1, "io.containerd.runc.v2"))
        + field(5, spec)
        + field(6, SNAPSHOTTER)
        + field(7, name)
    )
    call("containers.v1.Containers/Create", field(1, container))
    task = field(1, name)
    call("tasks.v1.Tasks/Create", task + mounts)
    waiting = threading.Thread(target=call, args=("tasks.v1.Tasks/Wait", task))
    waiting.start()
    call("tasks.v1.Tasks/Start", task)
    waiting.join()
    call("tasks.v1.Tasks/Delete", task)
    call("snapshots.v1.Snapshots/Remove", snapshot)
    call("containers.v1.Containers/Delete", field(1, name))


main()
