"""The Python client against the echo coordinator in a process of its own: python_client_test.py PATH/api_echo_server"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

try:
    import google.protobuf  # noqa: F401
    import zmq
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python"))
import tailor_client  # noqa: E402
from tailor_client._schema import api  # noqa: E402

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


class Conversation:
    """A client and a bare socket it talks to: the test says what the server says."""

    def __init__(self, test, **options):
        context = zmq.Context()
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        self.socket.bind("tcp://127.0.0.1:*")
        self.client = tailor_client.Client(self.socket.getsockopt_string(zmq.LAST_ENDPOINT), **options)
        test.addCleanup(context.term)
        test.addCleanup(self.socket.close, 0)
        test.addCleanup(self.client.close)

    def said(self, kind):
        """What the client says next of this kind, while it is not polled."""
        while True:
            frames = self.socket.recv_multipart()
            self.identity = frames[0]
            message = api.ClientMessage.FromString(frames[-1])
            if message.WhichOneof("body") == kind:
                return getattr(message, kind)

    def say(self, *events):
        """Says this and returns all that the client makes of it."""
        message = api.ServerMessage(events=[*events, api.ServerEvent(rejected=api.Rejected(request_id="mark"))])
        self.socket.send_multipart([self.identity, message.SerializeToString()])
        heard = []
        while not heard or heard[-1].request_id != "mark":
            got = self.client.poll(PATIENCE_S)
            if not got:
                raise AssertionError("nothing came")
            heard += got
        return heard[:-1]


def piece(at, text):
    return api.ServerEvent(chunk=api.TokenChunk(request_id="r", first_index=at, token_ids=list(text.encode()),
                                                text_offset=at, text=text))


def end_after(*tokens):
    return api.ServerEvent(finished=api.Finished(
        request_id="r", samples=[api.SampleResult(reason=1, completion_tokens=n) for n in tokens]))


class SpokenTo(unittest.TestCase):
    def test_an_end_before_the_last_token_is_asked_for_again(self):
        talk = Conversation(self)
        talk.client.submit("x", request_id="r")
        talk.said("submit")
        heard = talk.say(piece(0, "ab"), end_after(5))
        self.assertEqual([type(e).__name__ for e in heard], ["TokenChunk"])
        self.assertEqual(list(talk.said("resume").from_token), [2])
        heard = talk.say(piece(2, "cde"), end_after(5))
        self.assertEqual([type(e).__name__ for e in heard], ["TokenChunk", "Finished"])
        self.assertEqual(talk.say(piece(0, "ab"), end_after(5)), [])  # nothing behind the end

    def test_a_resume_that_names_fewer_samples_than_there_are_ends(self):
        talk = Conversation(self)
        talk.client.resume("r", [5])
        talk.said("resume")
        self.assertEqual(len(talk.say(end_after(5, 9))), 1)

    def test_who_speaks_after_a_long_silence_grants_and_asks_anew(self):
        talk = Conversation(self, forgotten_after_s=0.0)  # every silence is a long one
        talk.client.submit("x", request_id="r")
        talk.said("submit")
        talk.client.submit("y", request_id="s")
        self.assertEqual(talk.said("credit").messages, 64)
        self.assertEqual(talk.said("resume").request_id, "r")
        self.assertEqual(talk.said("submit").request_id, "s")
        talk.client.poll(0)
        talk.said("resume")

    def test_a_server_that_is_slow_but_lives_is_waited_for(self):
        talk = Conversation(self, silent_after_s=2.0)
        talk.client.submit("x", request_id="r")

        def live():
            for more in ([], [end_after(0)]):
                talk.said("status")
                message = api.ServerMessage(events=[api.ServerEvent(status=api.StatusReport()), *more])
                talk.socket.send_multipart([talk.identity, message.SerializeToString()])

        server = threading.Thread(target=live)
        server.start()
        heard = list(talk.client.events())
        server.join()
        self.assertEqual([type(e).__name__ for e in heard], ["Finished"])

    def test_who_is_forgotten_grants_and_asks_anew_with_its_tokens(self):
        talk = Conversation(self)
        talk.client.submit("x", request_id="r")
        talk.said("submit")
        accepted = api.ServerEvent(accepted=api.Accepted(request_id="r", token="secret"))
        talk.say(accepted, piece(0, "ab"), api.ServerEvent(forgotten=api.Forgotten()))
        self.assertEqual(talk.said("credit").messages, 64)
        resume = talk.said("resume")
        self.assertEqual((list(resume.from_token), resume.token), ([2], "secret"))
        talk.client.cancel("r")
        self.assertEqual(talk.said("cancel").token, "secret")


class PythonClient(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.stop)

    def connect(self, **options):
        client = tailor_client.Client(self.server.endpoint, **options)
        self.addCleanup(client.close)
        return client

    def test_a_message_that_would_close_the_connection_is_not_sent(self):
        client = self.connect()
        with self.assertRaisesRegex(ValueError, "the limit is 67108864"):
            client.submit("x" * (64 << 20), request_id="large")
        self.assertEqual(client.generate("abc", max_tokens=8, timeout_s=PATIENCE_S)["text"], "abc")

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

    def test_what_is_refused_here_was_never_sent(self):
        talk = Conversation(self)
        hi = dict(role="user", content="hi")
        picture = dict(role="user", content=[dict(type="image_url", image_url=dict(url="x"))])
        for said, wrong in ((dict(role="user", content=None), "content must be text"),
                            (dict(role="user"), "content must be text"), (dict(content="hi"), "role must be text"),
                            (dict(role="user", content=["a", None]), r"content\[1\] must be text"),
                            (picture, r"content\[0\] must be text"), ("hi", "a dict with role and content")):
            with self.assertRaisesRegex(ValueError, r"messages\[1\].*" + wrong):
                talk.client.submit(messages=[hi, said])
        for wrong in (dict(n="2"), dict(n=2.5), dict(n=2**40), dict(temprature=1.0), dict(temprature=None),
                      dict(stop=7.5), dict(logit_bias={"a": 1}), dict(priority="urgent"), dict(deadline_s="soon"),
                      dict(request_id="x" * 129), dict(request_id="ä" * 65)):
            with self.assertRaises((TypeError, ValueError), msg=wrong):
                talk.client.submit("x", **wrong)
        for name, value in (("seed", -1), ("max_tokens", 2**40), ("deadline_s", float("nan")), ("deadline_s", 1e18)):
            with self.assertRaisesRegex(ValueError, name):
                talk.client.submit("x", **{name: value})
        for say in (talk.client.cancel, talk.client.resume):
            with self.assertRaisesRegex(ValueError, "request_id must have 1..128 bytes, found 129"):
                say("x" * 129)
        talk.client.submit(messages=[hi, dict(role="user", content=[dict(type="text", text="a"), "b"])])
        submit = talk.said("submit")  # the first of all
        self.assertEqual([m.content for m in submit.chat.messages], ["hi", "ab"])

    def test_none_is_not_given(self):
        talk = Conversation(self)
        talk.client.submit("x", request_id="r", n=None, stop=None, stop_token_ids=None, logit_bias=None,
                           temperature=None, top_k=0, min_p=0.0)
        self.assertEqual(sorted(f.name for f, _ in talk.said("submit").sampling.ListFields()), ["min_p", "top_k"])
        self.assertEqual(len(talk.say(piece(0, "ab"), end_after(2))), 2)
        client = self.connect()
        self.assertEqual(client.generate("hello", n=None, timeout_s=PATIENCE_S)["text"], "hello")
        with self.assertRaisesRegex(tailor_client.RequestFailed, "n must be in 1..64"):
            client.generate("hello", n=2**31 - 1, timeout_s=PATIENCE_S)  # and takes no memory for them

    def test_cancel_and_resume(self):
        client = self.connect()
        request = client.submit("forever")
        client.cancel(request)
        last = list(client.events(PATIENCE_S))[-1]
        self.assertEqual(last.samples[0]["reason"], "cancelled")
        self.assertEqual(last.error.code, "Cancelled")
        finished = client.generate("0123456789", request_id="again", timeout_s=PATIENCE_S)
        self.assertEqual(finished["text"], "0123456789")
        self.assertEqual(finished["token"], "token of again")
        other = self.connect()
        other.resume("again", [6], token=finished["token"])
        text = "".join(e.text for e in other.events(PATIENCE_S) if isinstance(e, tailor_client.TokenChunk))
        self.assertEqual(text, "6789")

    def test_anothers_request_is_opened_by_its_token_alone(self):
        owner, other = self.connect(), self.connect()
        request = owner.submit("forever")
        token = owner.poll(PATIENCE_S)[0].token
        for wrong in ("", token + "x"):
            for ask in (other.cancel, lambda request_id, token: other.resume(request_id, token=token)):
                ask(request, token=wrong)
                self.assertEqual([event.error.code for event in other.poll(PATIENCE_S)], ["Unauthenticated"])
        other.cancel(request, token=token)
        last = list(other.events(PATIENCE_S))[-1]  # who cancels hears the end
        self.assertEqual(last.samples[0]["reason"], "cancelled")

    def test_an_end_is_heard_once_even_if_it_is_cancelled_afterwards(self):
        talk = Conversation(self)
        talk.client.submit("x", request_id="r")
        talk.said("submit")
        self.assertEqual(len(talk.say(piece(0, "ab"), end_after(2))), 2)
        talk.client.cancel("r")
        talk.said("cancel")
        self.assertEqual(talk.say(end_after(2)), [])

    def test_status_keeps_the_events_of_requests(self):
        client = self.connect()
        client.submit("kept")
        self.assertTrue(client.status(PATIENCE_S).ready)
        self.assertEqual("".join(e.text for e in client.events(PATIENCE_S)
                                 if isinstance(e, tailor_client.TokenChunk)), "kept")

    def test_status_of_nobody_is_unavailable(self):
        with tailor_client.Client("tcp://127.0.0.1:1") as client:
            with self.assertRaisesRegex(tailor_client.Unavailable, "no cluster answers at tcp://127.0.0.1:1 .*nothing"):
                client.status(0.05)

    def test_a_foreign_service_and_an_impossible_endpoint_are_named(self):
        with socket.create_server(("127.0.0.1", 0)) as service:
            with tailor_client.Client(f"tcp://127.0.0.1:{service.getsockname()[1]}") as client:
                what, until = "nothing", time.monotonic() + PATIENCE_S
                while "nothing" in what and time.monotonic() < until:
                    with self.assertRaises(tailor_client.Unavailable) as caught:
                        client.status(0.1)
                    what = str(caught.exception)
                self.assertIn("does not answer in ZeroMQ's protocol", what)
        for wrong in ("tcp://127.0.0.1:0", "tcp://127.0.0.1:65536", "tcp://127.0.0.1", "127.0.0.1:5555"):
            with self.assertRaisesRegex(ValueError, wrong):
                tailor_client.Client(wrong)

    def test_a_server_that_stops_answering_ends_the_wait(self):
        client = self.connect(silent_after_s=0.4)
        self.assertEqual(client.generate("alive", timeout_s=PATIENCE_S)["text"], "alive")
        os.kill(self.server.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.server.process.pid, signal.SIGCONT)
        client.submit("never answered")
        with self.assertRaisesRegex(tailor_client.Unavailable, self.server.endpoint):
            list(client.events())
        with self.assertRaisesRegex(tailor_client.Unavailable, self.server.endpoint):
            client.generate("nor this")

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
        out = subprocess.run([sys.executable, ROOT / "client/python/examples/generate.py", "--endpoint",
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
