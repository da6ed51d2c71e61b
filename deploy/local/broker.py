"""A Kafka-protocol broker in this process: the mock cluster inside librdkafka, on a fixed port.

    python -m deploy.local.broker --port 19092 --topics-from-pack mobile_operator

Its log is in memory: after a restart every topic is empty and `gongdan.incarnation` holds another identity, which
tells the services to ask for a replay. The library chooses its port itself and has no setting for it, so its
listening socket is replaced by ours, and the address it advertises is changed with it. Topics and the identity are
in place before that, so that whoever can connect finds both.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import confluent_kafka

from shared.contracts.topics import INCARNATION, all_topics
from shared.policy.loader import load_pack

HOST = "127.0.0.1"
PRODUCER = 0
BROKER_ID = 1
BACKLOG = 256
HIGHEST_DESCRIPTOR = 256
FLUSH_SECONDS = 5.0
KNOCK_SECONDS = 0.01


def load_library() -> ctypes.CDLL:
    """The librdkafka that the confluent_kafka wheel brings; the same copy that its Python module has loaded."""
    package = Path(confluent_kafka.__file__).parent
    candidates = [
        *package.with_name("confluent_kafka.libs").glob("librdkafka*"),
        *(package / ".dylibs").glob("librdkafka*"),
    ]
    if not candidates:
        raise RuntimeError("no librdkafka inside the confluent_kafka package")
    library = ctypes.CDLL(str(candidates[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    library.rd_kafka_conf_new.restype = pointer
    library.rd_kafka_conf_set.argtypes = [pointer, text, text, text, ctypes.c_size_t]
    library.rd_kafka_new.restype = pointer
    library.rd_kafka_new.argtypes = [number, pointer, text, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.restype = pointer
    library.rd_kafka_mock_cluster_new.argtypes = [pointer, number]
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    library.rd_kafka_mock_topic_create.argtypes = [pointer, text, number, number]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [pointer, ctypes.c_int32]
    library.rd_kafka_mock_broker_set_host_port.argtypes = [pointer, ctypes.c_int32, text, number]
    return library


def listening_descriptor(port: int) -> int:
    """The descriptor in this process that listens on the port."""
    for descriptor in range(3, HIGHEST_DESCRIPTOR):
        try:
            with socket.socket(fileno=os.dup(descriptor)) as candidate:
                listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and candidate.family == socket.AF_INET and candidate.getsockname()[1] == port:
                    return descriptor
        except OSError:
            continue
    raise RuntimeError(f"no socket of this process listens on port {port}")


@contextlib.contextmanager
def kept_awake(ports: Iterable[int]) -> Iterator[None]:
    """Knock on these ports all the while.

    The broker's thread sometimes sleeps through a call from outside, and then takes it up only after its own second;
    a connection always wakes it.
    """
    over = threading.Event()

    def knock() -> None:
        while not over.wait(KNOCK_SECONDS):
            for port in ports:
                with contextlib.suppress(OSError):
                    socket.create_connection((HOST, port), timeout=1).close()

    thread = threading.Thread(target=knock, name="knock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write_incarnation(bootstrap: str) -> str:
    """Write the identity of this log as the first and only record of its topic; returns it."""
    identity = str(uuid.uuid4())
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap})
    producer.produce(INCARNATION, value=identity.encode(), partition=0)
    if producer.flush(FLUSH_SECONDS):
        raise RuntimeError("the broker did not take its own first record")
    return identity


def start_broker(port: int, partitions: Mapping[str, int], advertised_port: int | None = None) -> str:
    """Start the broker with these topics (name: partitions) and open it on the port; returns the log's identity.

    Clients are told to come to `advertised_port`, which is the same port unless a proxy stands before it. The broker
    lives as long as the process.
    """
    advertised = advertised_port or port
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.setblocking(False)

    library = load_library()
    error = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(configuration, b"log_level", b"4", error, len(error))
    handle = library.rd_kafka_new(PRODUCER, configuration, error, len(error))
    cluster = handle and library.rd_kafka_mock_cluster_new(handle, 1)
    if not cluster:
        raise RuntimeError(f"librdkafka has no mock cluster to offer: {error.value.decode()}")
    bootstrap: str = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    own_port = int(bootstrap.rpartition(":")[2])
    with kept_awake((own_port, port)):
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
        for name, count in partitions.items():
            if library.rd_kafka_mock_topic_create(cluster, name.encode(), count, 1) != 0:
                raise RuntimeError(f"the broker refused to create the topic {name}")
        identity = write_incarnation(bootstrap)

        library.rd_kafka_mock_broker_set_host_port(cluster, BROKER_ID, HOST.encode(), advertised)
        listener.listen(BACKLOG)
        os.dup2(listener.fileno(), listening_descriptor(own_port))
        listener.close()
        # The thread still waits on the socket that is gone; any call makes it look at the new one.
        library.rd_kafka_mock_broker_set_host_port(cluster, BROKER_ID, HOST.encode(), advertised)
    return identity


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.broker", description="Kafka's protocol, in memory.")
    parser.add_argument("--port", type=int, default=19092)
    parser.add_argument("--advertised-port", type=int, help="where clients are told to come (default: the port)")
    parser.add_argument("--topics-from-pack", default="mobile_operator", help="policy pack whose branches get topics")
    arguments = parser.parse_args()
    branches = [branch.id for branch in load_pack(arguments.topics_from_pack).branches]
    partitions = {topic.name: topic.partitions for topic in all_topics(branches)}
    identity = start_broker(arguments.port, partitions, arguments.advertised_port)
    # The default action ends the process at once; there is nothing to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(f"ready on {HOST}:{arguments.port}, log {identity}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
