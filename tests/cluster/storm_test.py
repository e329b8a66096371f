"""Many clients at once, some of them hostile: every request ends exactly once, and the good ones get the very tokens
they would have got alone."""
import json
import math
import random
import socket
import struct
import threading
import unittest

import zmq

from cluster import PATIENCE_S, ROOT, Cluster, wait_until
from tailor_client import Client, Finished, Rejected, RequestFailed, TokenChunk

CLIENTS = 64


def prompts(count):
    lines = (ROOT / "launch/quickstart_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line)["prompt"] for line in lines if line.strip()]
    return [found[i % len(found)] for i in range(count)]


def ask(endpoint, prompt, max_tokens, seen):
    """One client with one request, in its own connection; `seen` gets every event."""
    with Client(endpoint) as client:
        client.submit(messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens, temperature=0,
                      ignore_eos=True)
        for event in client.events():
            seen.append(event)


class Answer:
    def __init__(self, events):
        self.ends = [e for e in events if isinstance(e, (Finished, Rejected))]
        chunks = [e for e in events if isinstance(e, TokenChunk)]
        self.token_ids = [t for c in chunks for t in c.token_ids]


class Storm(unittest.TestCase):
    def test_64_clients_of_mixed_lengths_and_bad_company(self):
        rng = random.Random(5)
        work = [(prompt, rng.choice([1, 9, 60, 110])) for prompt in prompts(CLIENTS)]
        with Cluster("--slots", 20, "--prefill-budget", 48, "--kv-memory", "23MiB", "--max-context", 1024,
                     replicas=2) as cluster:
            alone = []
            for prompt, max_tokens in work[:12]:
                events = []
                ask(cluster.endpoint, prompt, max_tokens, events)
                alone.append(Answer(events))

            stop = threading.Event()
            bad = [threading.Thread(target=f, args=(cluster.endpoint, stop)) for f in
                   (garbage, half_messages, vanishing, oversized, not_a_number, beyond_the_context, unknown_fields)]
            seen = [[] for _ in work]
            good = [threading.Thread(target=ask, args=(cluster.endpoint, *item, events))
                    for item, events in zip(work, seen)]
            for thread in bad + good:
                thread.start()
            for thread in good:
                thread.join()
            stop.set()
            for thread in bad:
                thread.join()
            self.assertEqual(failures, [])

            for (prompt, max_tokens), events in zip(work, seen):
                answer = Answer(events)
                self.assertEqual(len(answer.ends), 1, prompt)
                self.assertIsInstance(answer.ends[0], Finished, answer.ends)
                self.assertIsNone(answer.ends[0].error)
                self.assertEqual(len(answer.token_ids), max_tokens)
                self.assertEqual(answer.ends[0].samples[0]["completion_tokens"], max_tokens)
            for reference, events in zip(alone, seen):
                self.assertEqual(reference.token_ids, Answer(events).token_ids)
            wait_until(lambda: cluster.status()["active_requests"] == 0, PATIENCE_S, "those of the vanished are cancelled")
            status = cluster.status()
            self.assertGreater(status["counters"]["preemptions"], 0, "the storm was too mild to test anything")
            # A cancelled request is gone from the coordinator at once; its blocks return with the leader's next report.
            wait_until(lambda: all(r["free_blocks"] == r["num_blocks"] for r in cluster.status()["replicas"]), PATIENCE_S,
                       "every replica has all its blocks back")


failures = []


def guarded(attack):
    def run(endpoint, stop):
        try:
            attack(endpoint, stop)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(f"{attack.__name__}: {error!r}")

    run.__name__ = attack.__name__
    return run


@guarded
def garbage(endpoint, stop):
    rng = random.Random(1)
    context = zmq.Context()
    s = context.socket(zmq.DEALER)
    s.setsockopt(zmq.LINGER, 0)
    s.connect(endpoint)
    while not stop.is_set():
        s.send(rng.randbytes(rng.randrange(1, 2000)))
        s.send_multipart([rng.randbytes(3), b"", rng.randbytes(40)])
        stop.wait(0.01)  # an attack rate, not a synchronisation
    s.close()
    context.term()


@guarded
def half_messages(endpoint, stop):
    """Raw TCP: a wrong greeting, and a frame that promises more than it brings."""
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    while not stop.is_set():
        with socket.create_connection((host, int(port))) as s:
            s.sendall(b"\xff" + struct.pack(">Q", 1 << 40) + b"\x7f\x03")
        with socket.create_connection((host, int(port))) as s:
            s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stop.wait(0.05)


@guarded
def vanishing(endpoint, stop):
    while not stop.is_set():
        client = Client(endpoint)
        client.submit("Tell me a very long story.", max_tokens=200, temperature=0, ignore_eos=True)
        client.poll(0.2)
        client.close()
        stop.wait(0.5)


@guarded
def oversized(endpoint, stop):
    with Client(endpoint) as client:
        expect_refusal(client, ("LimitExceeded",), prompt="x" * 10_000_000)


@guarded
def not_a_number(endpoint, stop):
    with Client(endpoint) as client:
        for field in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"):
            expect_refusal(client, ("InvalidArgument",), prompt="Hello", **{field: math.nan})


@guarded
def beyond_the_context(endpoint, stop):
    with Client(endpoint) as client:
        expect_refusal(client, ("InvalidArgument", "LimitExceeded"), prompt="word " * 20_000)


@guarded
def unknown_fields(endpoint, stop):
    """Messages of a later version: field 99 beside a good request and a good question is ignored."""
    from tailor_client._schema import api
    context = zmq.Context()
    s = context.socket(zmq.DEALER)
    s.setsockopt(zmq.LINGER, 0)
    s.connect(endpoint)
    unknown = bytes([0x9A, 0x06, 3]) + b"abc"
    request = api.ClientMessage(protocol_version=1, submit=api.Submit(request_id="later", text="Hello"))
    request.submit.sampling.max_tokens = 2
    s.send(api.ClientMessage(protocol_version=1, credit=api.Credit(messages=100)).SerializeToString())
    s.send(request.SerializeToString() + unknown)
    s.send(api.ClientMessage(protocol_version=1, status=api.StatusQuery()).SerializeToString() + unknown)
    missing = {"finished", "status"}
    while missing:
        if not s.poll(PATIENCE_S * 1000):
            failures.append(f"unknown_fields: no {missing}")
            break
        missing -= {event.WhichOneof("body") for event in api.ServerMessage.FromString(s.recv()).events}
    s.close()
    context.term()


def expect_refusal(client, codes, **request):
    try:
        client.generate(timeout_s=PATIENCE_S, **request)
        failures.append(f"{codes}: was accepted")
    except RequestFailed as error:
        if error.code not in codes:
            failures.append(f"expected {codes}, found {error}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
