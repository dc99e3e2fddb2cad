"""Writes to etcd one after the other through grpcio, run by the Python of the peers' venv: what a Python program pays.

argv: port, seconds.  Prints the milliseconds of each write as JSON.
"""

import json
import os
import sys
import time

import grpc

port, seconds = int(sys.argv[1]), float(sys.argv[2])
value = os.urandom(256)
put = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/etcdserverpb.KV/Put")
took = []
until = time.perf_counter() + seconds
while (began := time.perf_counter()) < until:
    key = b"key-%d" % (len(took) % 1000)
    put(b"\x0a" + bytes([len(key)]) + key + b"\x12\x80\x02" + value)
    took.append((time.perf_counter() - began) * 1000)
print(json.dumps(took))
