"""The Python client against the echo coordinator in a process of its own: python_client_test.py PATH/api_echo_server"""

import pathlib
import subprocess
import sys
import unittest

try:
    import google.protobuf  # noqa: F401
    import zmq
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "comm" / "python"))
import tailor_client  # noqa: E402

SERVER = sys.argv.pop(1)
PATIENCE_S = 20.0


class Server:
    def __init__(self, endpoint="tcp://127.0.0.1:*"):
        self.process = subprocess.Popen([SERVER, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(PATIENCE_S)
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class PythonClient(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.stop)

    def connect(self, **options):
        client = tailor_client.Client(self.server.endpoint, **options)
        self.addCleanup(client.close)
        return client

    def test_generate_returns_the_whole_answer(self):
        client = self.connect()
        answer = client.generate("hello there, world", max_tokens=100, temperature=0, seed=5, logprobs=0,
                                 timeout_s=PATIENCE_S)
        self.assertEqual(answer["text"], "hello there, world")
        self.assertEqual(answer["token_ids"], list(b"hello there, world"))
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["seed"], 5)
        self.assertEqual(len(answer["samples"][0]["logprobs"]), 18)
        self.assertAlmostEqual(answer["timings"]["finished_s"], 0.005)
        cut = client.generate("0123456789", max_tokens=4, timeout_s=PATIENCE_S)
        self.assertEqual((cut["text"], cut["finish_reason"]), ("0123", "length"))

    def test_messages_and_token_ids(self):
        client = self.connect()
        answer = client.generate(messages=[dict(role="user", content="hi")], timeout_s=PATIENCE_S)
        self.assertEqual(answer["text"], "user: hi")
        self.assertEqual(client.generate(token_ids=[0, 1, 2], timeout_s=PATIENCE_S)["text"], "abc")
        with self.assertRaises(ValueError):
            client.submit("a", token_ids=[1])

    def test_many_requests_under_a_small_window_end_once_each(self):
        client = self.connect(credit_window=3)
        ids = {client.submit(f"answer number {i} " + "x" * (i % 40)): i for i in range(200)}
        texts, ended = dict.fromkeys(ids, ""), []
        for event in client.events(PATIENCE_S):
            if isinstance(event, tailor_client.TokenChunk):
                self.assertEqual(event.text_offset, len(texts[event.request_id]))
                texts[event.request_id] += event.text
            elif isinstance(event, tailor_client.Finished):
                ended.append(event.request_id)
        self.assertEqual(sorted(ended), sorted(ids))
        for request_id, i in ids.items():
            self.assertEqual(texts[request_id], f"answer number {i} " + "x" * (i % 40))
        stalls = {c.name: c.value for c in client.status(PATIENCE_S).counters}["credit_stalls"]
        self.assertGreater(stalls, 0)

    def test_errors_are_typed(self):
        client = self.connect()
        with self.assertRaises(tailor_client.RequestFailed) as caught:
            client.generate("x", temperature=float("nan"), timeout_s=PATIENCE_S)
        self.assertEqual(caught.exception.code, "InvalidArgument")
        with self.assertRaises(tailor_client.RequestFailed) as caught:
            client.generate("x" * 3_000_000, timeout_s=PATIENCE_S)
        self.assertEqual(caught.exception.code, "LimitExceeded")
        with self.assertRaises(TypeError):
            client.submit("x", temprature=1.0)
        self.assertEqual(client.generate("still here", timeout_s=PATIENCE_S)["text"], "still here")

    def test_cancel_and_resume(self):
        client = self.connect()
        request = client.submit("forever")
        client.cancel(request)
        last = list(client.events(PATIENCE_S))[-1]
        self.assertEqual(last.samples[0]["reason"], "cancelled")
        self.assertEqual(last.error.code, "Cancelled")
        finished = client.generate("0123456789", request_id="again", timeout_s=PATIENCE_S)
        self.assertEqual(finished["text"], "0123456789")
        other = self.connect()
        other.resume("again", [6])
        text = "".join(e.text for e in other.events(PATIENCE_S) if isinstance(e, tailor_client.TokenChunk))
        self.assertEqual(text, "6789")

    def test_status_keeps_the_events_of_requests(self):
        client = self.connect()
        client.submit("kept")
        self.assertTrue(client.status(PATIENCE_S).ready)
        self.assertEqual("".join(e.text for e in client.events(PATIENCE_S)
                                 if isinstance(e, tailor_client.TokenChunk)), "kept")

    def test_status_of_nobody_is_unavailable(self):
        with tailor_client.Client("tcp://127.0.0.1:1") as client:
            with self.assertRaises(tailor_client.Unavailable):
                client.status(0.05)

    def test_a_killed_server_that_comes_back_says_that_it_knows_nothing(self):
        client = self.connect()
        request = client.submit("forever")
        self.assertIsInstance(client.poll(PATIENCE_S)[0], tailor_client.Accepted)
        endpoint = self.server.endpoint
        self.server.kill()
        self.server = Server(endpoint)
        self.addCleanup(self.server.stop)
        last = list(client.events(PATIENCE_S))[-1]
        self.assertEqual((last.request_id, last.error.code), (request, "NotFound"))
        self.assertEqual(client.generate("back", timeout_s=PATIENCE_S)["text"], "back")

    def test_the_example_streams_an_answer(self):
        out = subprocess.run([sys.executable, ROOT / "comm/python/examples/generate.py", "--endpoint",
                              self.server.endpoint, "Why?"], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((out.stdout, out.returncode), ("user: Why?\n", 0), out.stderr)

    def test_garbage_does_not_disturb_the_others(self):
        context = zmq.Context()
        vandal = context.socket(zmq.DEALER)
        vandal.connect(self.server.endpoint)
        for i in range(2000):
            vandal.send(bytes([255, i % 256]) * (1 + i % 50))
        client = self.connect()
        self.assertEqual(client.generate("fine", timeout_s=PATIENCE_S)["text"], "fine")
        bad = 0
        while bad < 2000:
            bad = {c.name: c.value for c in client.status(PATIENCE_S).counters}["bad_messages"]
        vandal.close(0)
        context.term()


if __name__ == "__main__":
    unittest.main(verbosity=2)
