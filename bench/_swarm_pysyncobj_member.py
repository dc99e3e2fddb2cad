"""One member of a pysyncobj cluster; run by the Python of the peers' venv.  Commands are JSON lines on standard input,
answers JSON lines on standard output.  argv: own address, folder, timing, addresses of the others.
"""

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

from pysyncobj import SyncObj, SyncObjConf, replicated

VALUE = os.urandom(256)
TIMINGS = {
    "default": {},
    # what it does best with here: no batches that wait, a loop that looks every millisecond
    "tuned": {
        "autoTickPeriod": 0.001,
        "appendEntriesUseBatch": False,
        "appendEntriesPeriod": 0.03,
        "raftMinTimeout": 0.15,
        "raftMaxTimeout": 0.3,
        "connectionTimeout": 0.5,
        "connectionRetryTime": 0.1,
    },
}


class Store(SyncObj):
    def __init__(self, address: str, others: list[str], folder: str, timing: str) -> None:
        name = address.replace(":", "-")
        super().__init__(
            address,
            others,
            SyncObjConf(
                journalFile=f"{folder}/{name}.journal", fullDumpFile=f"{folder}/{name}.dump", **TIMINGS[timing]
            ),
        )
        self.data: dict[str, bytes] = {}

    @replicated
    def put(self, key: str, value: bytes) -> None:
        self.data[key] = value


def load(store: Store, in_flight: int, seconds: float, rate: float) -> list[float]:
    took: list[float] = []
    refused = [0]
    room = threading.Semaphore(in_flight)
    began = time.perf_counter()
    number = 0
    while (now := time.perf_counter()) < began + seconds:
        if rate:
            now = began + number / rate
            time.sleep(max(0.0, now - time.perf_counter()))
        room.acquire()
        number += 1

        def done(_result: object, error: object, at: float = now if rate else time.perf_counter()) -> None:
            if error:
                refused[0] += 1
            else:
                took.append((time.perf_counter() - at) * 1000)
            room.release()

        store.put(f"key-{number % 1000}", VALUE, callback=done)
    for _ in range(in_flight):
        room.acquire(timeout=5)
    if refused[0]:
        raise SystemExit(f"pysyncobj refused {refused[0]} writes")
    return took


def first(store: Store, stop: threading.Event) -> None:
    """A new write every 5 ms, until one is acknowledged."""
    found: list[float] = []
    one = threading.Event()

    def done(_result: object, error: object) -> None:
        if not error:
            found.append(time.perf_counter())
            one.set()

    while not found and not stop.is_set():
        store.put("first", VALUE, callback=done)
        one.wait(0.005)
    print(json.dumps({"at": found[0] if found else None}), flush=True)


def main() -> None:
    address, folder, timing, *others = sys.argv[1:]
    Path(folder).mkdir(exist_ok=True)
    store = Store(address, others, folder, timing)
    commands: queue.Queue[dict[str, object]] = queue.Queue()
    stop = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command["op"] == "stop":
                stop.set()
            else:
                commands.put(command)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        command = commands.get()
        if command["op"] == "status":
            status = store.getStatus()
            leader = status["leader"]
            print(
                json.dumps(
                    {
                        "leader": str(getattr(leader, "address", leader)),
                        "self": address,
                        "commit": status["commit_idx"],
                        "ready": store.isReady(),
                    }
                ),
                flush=True,
            )
        elif command["op"] == "load":
            print(json.dumps(load(store, command["in_flight"], command["seconds"], command["rate"])), flush=True)
        elif command["op"] == "first":
            stop.clear()
            first(store, stop)


main()
