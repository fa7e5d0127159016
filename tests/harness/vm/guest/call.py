# One unary gRPC call with bytes in and bytes out, both in base64: call.py SOCKET NAMESPACE /package.Service/Method REQUEST
# Prints "ok RESPONSE", or "CODE message". The C core's client: the messages are the caller's.
import base64
import sys

import grpc

socket, namespace, method, request = sys.argv[1:]
channel = grpc.insecure_channel("unix:" + socket)
call = channel.unary_unary(method)
try:
    response = call(
        base64.b64decode(request), metadata=[("containerd-namespace", namespace)], timeout=120, wait_for_ready=True
    )
    print("ok", base64.b64encode(response).decode())
except grpc.RpcError as error:
    print(error.code().name, error.details())
