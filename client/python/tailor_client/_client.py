"""The client: one DEALER socket, used by one thread. Mirrors client/client.h."""

import dataclasses
import math
import time
import uuid
from typing import Iterator, Optional, Union

import zmq
import zmq.utils.monitor

from ._schema import api

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 64 << 20  # the server closes the connection of a larger one
_LEASE_EVERY_S = 3.0
_FORGOTTEN_AFTER_S = 8.0  # silent for so long, the server may have dropped our credit and our requests
_RESUME_AGAIN_S = 1.0
_MAX_ID_BYTES = 128  # of a request's name
_MAX_DEADLINE_S = 1e9
_MAX_SAMPLES = 64  # of a request; the server refuses more
_SILENT_AFTER_S = 10.0  # half of it without an event, half without an answer to a question whether it lives

_LINK_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
# What is known of the other side when it does not answer.
_NOBODY = "nothing listens there"
_MUTE = "what listens there does not answer in ZeroMQ's protocol (another service, or a stopped process)"
_SILENT = "what listens there speaks ZeroMQ, but does not answer as Tailor's coordinator does"
_BROKEN = "the connection is broken"

_PRIORITIES = {"interactive": 1, "standard": 2, "batch": 3}
_REASONS = {0: "none", 1: "stop", 2: "length", 3: "cancelled", 4: "failed"}


class Unavailable(Exception):
    """Nobody answers at the endpoint, or it takes no more messages."""


class RequestFailed(Exception):
    """A request was rejected or failed. `code` is the name in docs/api.md, e.g. "InvalidArgument"."""

    def __init__(self, request_id: str, code: str, message: str, retry_after_s: float = 0.0):
        super().__init__(f"{code}: {message}")
        self.request_id, self.code, self.message, self.retry_after_s = request_id, code, message, retry_after_s


@dataclasses.dataclass
class Accepted:
    request_id: str
    prompt_token_ids: list
    seed: int
    max_tokens: int
    token: str = ""  # whoever knows it may cancel and resume the request: a secret


@dataclasses.dataclass
class TokenChunk:
    request_id: str
    sample: int
    first_index: int
    token_ids: list
    text_offset: int
    text: str
    logprobs: list  # of (token, logprob, [(token, logprob), ...])


@dataclasses.dataclass
class Finished:
    request_id: str
    samples: list  # of dict(reason, stop_match, completion_tokens)
    prompt_tokens: int
    cached_tokens: int  # of the prompt's, found in a prefix cache
    timings: dict  # seconds since arrival, and counts
    error: Optional[RequestFailed]


@dataclasses.dataclass
class Rejected:
    request_id: str
    error: RequestFailed


Event = Union[Accepted, TokenChunk, Finished, Rejected]


def _code_name(code: int) -> str:
    try:
        name = api.ErrorCode.Name(code)
    except ValueError:
        return "Internal"
    return "".join(word.capitalize() for word in name.removeprefix("ERROR_CODE_").split("_"))


def _message(message, where: str) -> tuple:
    """(role, text) of one chat message; a list of text parts (OpenAI's form) is joined."""
    if not isinstance(message, dict):
        raise ValueError(f"{where} must be a dict with role and content, found {message!r:.60}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise ValueError(f"{where}: role must be text, found {role!r:.60}")
    if isinstance(content, (list, tuple)):
        content = "".join(_part(part, f"{where}: content[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise ValueError(f"{where}: content must be text or a list of text parts, found {content!r:.60}")
    return role, content


def _part(part, where: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
    if not isinstance(text, str):
        raise ValueError(f"{where} must be text or {{'type': 'text', 'text': ...}}, found {part!r:.60}")
    return text


def _num_samples(sampling) -> int:
    return min(max(sampling.n, 1), _MAX_SAMPLES) if sampling.HasField("n") else 1


@dataclasses.dataclass
class _Sample:
    next_token: int = 0
    next_byte: Optional[int] = 0  # None: taken from the next chunk


@dataclasses.dataclass
class _Open:
    samples: list
    token: str = ""
    only_cancel: bool = False  # another reads it; its end answers our cancel()
    resumed_at: float = -math.inf


def _cancel(request_id: str, token: str):
    return api.ClientMessage(protocol_version=PROTOCOL_VERSION,
                             cancel=api.Cancel(request_id=request_id, token=token))


def _check_id(request_id: str) -> str:
    """The server answers by the name, and cuts a longer one."""
    size = len(request_id.encode(errors="surrogatepass"))
    if not 1 <= size <= _MAX_ID_BYTES:
        raise ValueError(f"request_id must have 1..{_MAX_ID_BYTES} bytes, found {size}")
    return request_id


class Client:
    """Connects in the background; use status() to see whether someone answers.

    Credit and lease are kept while events(), poll(), generate() or status() run: call one of them at least every
    3 seconds while requests are open, or the server takes the client for gone after 10. A client silent for
    `forgotten_after_s` gives credit anew and asks again for what is open. A server that says nothing for
    `silent_after_s`, not even that it lives, is Unavailable to whoever waits without a timeout.
    """

    def __init__(self, endpoint: str = "tcp://127.0.0.1:5555", credit_window: int = 64,
                 forgotten_after_s: float = _FORGOTTEN_AFTER_S, silent_after_s: float = _SILENT_AFTER_S):
        if credit_window < 1:
            raise ValueError("credit_window must be above 0")
        self.endpoint = endpoint
        self._window = credit_window
        self._forgotten_after_s = forgotten_after_s
        self._silent_after_s = silent_after_s
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, b"p" + uuid.uuid4().hex.encode())  # kept over reconnects
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.SNDHWM, 100_000)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # bounded by credit
        # Not ZeroMQ's heartbeats: one behind messages that wait unread ends the server (docs/api.md).
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 15)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._monitor = self._socket.get_monitor_socket(_LINK_EVENTS)
        self._link = _NOBODY
        try:
            self._connect(endpoint)
        except BaseException:
            self.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._open: dict[str, _Open] = {}
        self._kept: list = []
        self._uncredited = 0
        self._was_connected = False
        self._said_at = -math.inf
        self._grant(credit_window)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _connect(self, endpoint: str) -> None:
        port = endpoint.rpartition(":")[2]
        if endpoint.startswith("tcp://") and not (port.isdecimal() and 1 <= int(port) <= 65535):
            raise ValueError(f"endpoint {endpoint!r} must end in a port of 1..65535, as in tcp://127.0.0.1:5555")
        # As the server reads it: localhost is 127.0.0.1, other names are IPv4's, IPv6 stands in brackets.
        self._socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        try:
            self._socket.connect(endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:"))
        except zmq.ZMQError as error:
            raise ValueError(f"cannot connect to {endpoint!r}, expected an endpoint such as tcp://127.0.0.1:5555: "
                             f"{error}") from None

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    # ---- what a client says --------------------------------------------------------------------------------------

    def submit(self, prompt: Optional[str] = None, *, messages=None, token_ids=None, request_id: Optional[str] = None,
               priority: str = "standard", tenant: str = "", deadline_s: Optional[float] = None, detach: bool = False,
               add_special_tokens: bool = True, parse_special_tokens: Optional[bool] = None, **sampling) -> str:
        """Sends a request and returns its id at once. Exactly one of `prompt` (text), `messages` (dicts with role
        and content: text, or a list of text parts, which are joined) and `token_ids`. `parse_special_tokens`: those
        written in the prompt are recognised, or are words; None: recognised in text, words in messages. `sampling`:
        any field of SamplingParams (temperature, top_p, max_tokens, seed, stop, logit_bias as a dict of token to
        bias, ...); what is None or not given has the server's default: for temperature, top_k, top_p, min_p and
        repetition_penalty the served model's own, else 0.7, off, 0.95, off and off. Raises ValueError or TypeError
        before anything is sent."""
        if sum(x is not None for x in (prompt, messages, token_ids)) != 1:
            raise ValueError("give exactly one of prompt, messages and token_ids")
        message = api.ClientMessage(protocol_version=PROTOCOL_VERSION)
        submit = message.submit
        submit.request_id = _check_id(request_id or uuid.uuid4().hex)
        if prompt is not None:
            submit.text = prompt
        elif messages is not None:
            submit.chat.SetInParent()
            for i, m in enumerate(messages):
                role, content = _message(m, f"messages[{i}]")
                submit.chat.messages.add(role=role, content=content)
        else:
            submit.token_ids.SetInParent()
            submit.token_ids.ids.extend(token_ids)
        submit.add_special_tokens = add_special_tokens
        if parse_special_tokens is not None:
            submit.parse_special_tokens = parse_special_tokens
        if priority not in _PRIORITIES:
            raise ValueError(f"priority must be one of {', '.join(_PRIORITIES)}, found {priority!r}")
        submit.priority = _PRIORITIES[priority]
        submit.tenant = tenant
        submit.detach = detach
        if deadline_s is not None:
            if not 0 <= deadline_s <= _MAX_DEADLINE_S:
                raise ValueError(f"deadline_s must be in 0..{_MAX_DEADLINE_S:.0e}, found {deadline_s}")
            submit.deadline_us = int(deadline_s * 1e6)
        self._put_sampling(submit.sampling, sampling)
        self._say(message)
        self._open[submit.request_id] = _Open([_Sample() for _ in range(_num_samples(submit.sampling))])
        return submit.request_id

    def cancel(self, request_id: str, token: str = "") -> None:
        """Answered by Finished or Rejected. `token` (of its Accepted) is needed for another client's request."""
        known = self._open.get(_check_id(request_id))
        token = token or (known.token if known else "")
        self._say(_cancel(request_id, token))
        if known is None and token:  # without, it is one of ours whose end has been heard, or is rejected
            self._open[request_id] = _Open([], token, only_cancel=True)

    def resume(self, request_id: str, from_token=(), token: str = "") -> None:
        """Asks for a request's stream, from these token indices on (one per sample; none = from the start). `token` (of
        its Accepted) is needed for another client's request, which no longer reads it then."""
        resume = api.Resume(request_id=_check_id(request_id), from_token=from_token, token=token)
        self._say(api.ClientMessage(protocol_version=PROTOCOL_VERSION, resume=resume))
        self._open[request_id] = _Open([_Sample(t, None if t else 0) for t in from_token] or [_Sample()], token)

    # ---- what it is told ----------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 1.0) -> list:
        """The events that have arrived; waits at most `timeout_s` for the first."""
        events, self._kept = self._kept, []
        until = time.monotonic() + (0 if events else timeout_s)
        while True:
            for event in self._receive(until):
                if not isinstance(event, api.StatusReport):
                    events.append(event)
            if events or time.monotonic() >= until:
                return events

    def events(self, timeout_s: Optional[float] = None) -> Iterator[Event]:
        """Events as they come, until every open request has ended (or none came for `timeout_s`). Without `timeout_s`
        raises Unavailable when the server says nothing for `silent_after_s`, not even that it lives."""
        while self._open or self._kept:
            got = self._poll_living(timeout_s)
            if not got and timeout_s is not None:
                return
            yield from got

    def generate(self, prompt: Optional[str] = None, *, messages=None, token_ids=None,
                 timeout_s: Optional[float] = None, **options) -> dict:
        """Submits one request and waits for its end. Returns dict(text, token_ids, finish_reason, samples,
        prompt_token_ids, seed, token, timings); with n > 1, `samples` holds a text and token_ids for each.
        Raises RequestFailed, or Unavailable when nothing at all came for `timeout_s`; without it, when the server says
        nothing for `silent_after_s`, not even that it lives."""
        mine = self.submit(prompt, messages=messages, token_ids=token_ids, **options)
        samples = [dict(text="", token_ids=[], logprobs=[]) for _ in self._open[mine].samples]
        accepted, others = None, []
        try:
            while True:
                got = self._poll_living(timeout_s)
                if not got and timeout_s is not None:
                    raise Unavailable(f"no answer from {self.endpoint} within {timeout_s} s")
                while got:
                    event = got.pop(0)
                    if event.request_id != mine:
                        others.append(event)
                    elif isinstance(event, Accepted):
                        accepted = event
                    elif isinstance(event, TokenChunk):
                        sample = samples[event.sample]
                        sample["text"] += event.text
                        sample["token_ids"] += event.token_ids
                        sample["logprobs"] += event.logprobs
                    else:
                        others += got
                        if event.error is not None:
                            raise event.error
                        for sample, result in zip(samples, event.samples):
                            sample.update(result)
                        return dict(request_id=mine, text=samples[0]["text"], token_ids=samples[0]["token_ids"],
                                    finish_reason=samples[0]["reason"], samples=samples, timings=event.timings,
                                    prompt_token_ids=accepted.prompt_token_ids if accepted else [],
                                    seed=accepted.seed if accepted else None,
                                    token=accepted.token if accepted else None)
        finally:
            self._kept = others + self._kept

    def status(self, timeout_s: float = 5.0):
        """The server's StatusReport (a protobuf message). Events of requests that arrive meanwhile are kept."""
        self._say(api.ClientMessage(protocol_version=PROTOCOL_VERSION, status=api.StatusQuery()))
        until = time.monotonic() + timeout_s
        while True:
            found = None
            for event in self._receive(until):
                if isinstance(event, api.StatusReport):
                    found = found or event
                else:
                    self._kept.append(event)
            if found is not None:
                return found
            if time.monotonic() >= until:
                raise Unavailable(f"no cluster answers at {self.endpoint} within {timeout_s} s: {self._link}")

    def _poll_living(self, timeout_s: Optional[float]) -> list:
        """poll(timeout_s); without one, until something comes. A server that is silent is asked whether it lives."""
        if timeout_s is not None:
            return self.poll(timeout_s)
        while not (got := self.poll(self._silent_after_s / 2)):
            try:
                self.status(self._silent_after_s / 2)
            except Unavailable as error:
                raise Unavailable(f"the cluster has stopped answering: {error}") from None
        return got

    # ---- inside -------------------------------------------------------------------------------------------------

    @staticmethod
    def _put_sampling(out, sampling: dict) -> None:
        for name, value in sampling.items():
            if name not in out.DESCRIPTOR.fields_by_name:
                raise TypeError(f"there is no sampling parameter {name!r}")
            if value is None:
                continue
            if name == "logit_bias":
                for token, bias in value.items():
                    out.logit_bias.add(token=int(token), bias=bias)
            elif name in ("stop", "stop_token_ids"):
                getattr(out, name).extend([value] if isinstance(value, (str, int)) else value)
            else:
                try:
                    setattr(out, name, value)
                except (ValueError, TypeError) as error:  # it does not say of what
                    raise type(error)(f"{name}: {error}") from None

    def _say(self, message) -> None:
        self._make_known()
        self._send(message)

    def _send(self, message) -> None:
        data = message.SerializeToString()
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"the message has {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}")
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            raise Unavailable(f"{self.endpoint} does not take any more messages") from None
        self._said_at = time.monotonic()

    def _grant(self, messages: int) -> None:
        self._uncredited = 0
        self._send(api.ClientMessage(protocol_version=PROTOCOL_VERSION, credit=api.Credit(messages=messages)))

    def _receive(self, until: float) -> list:
        self._make_known()
        if time.monotonic() - self._said_at >= _LEASE_EVERY_S:
            self._grant(self._uncredited)
        wait = min(until, self._said_at + _LEASE_EVERY_S) - time.monotonic()
        ready = dict(self._poller.poll(max(0, math.ceil(wait * 1000))))
        if self._monitor in ready:
            self._follow_connection()
        events = []
        if self._socket in ready:
            while True:
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._uncredited += 1
                for event in api.ServerMessage.FromString(frames[-1]).events:
                    value = self._take(event)
                    if value is not None:
                        events.append(value)
                if self._uncredited >= max(1, self._window // 2):
                    self._grant(self._uncredited)
        return events

    def _follow_connection(self) -> None:
        """A connection that came back may have lost messages of either direction, and the server may be a new one."""
        while self._monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._link = _SILENT
                if self._was_connected:
                    self._start_over()
                self._was_connected = True
            elif event == zmq.EVENT_CONNECTED:
                self._link = _MUTE
            elif self._link == _SILENT:  # the others tell of a connection's end
                self._link = _BROKEN

    def _make_known(self) -> None:
        """A server that has not heard us for its lease has forgotten our credit and who reads what."""
        if time.monotonic() - self._said_at >= self._forgotten_after_s:
            self._start_over()

    def _start_over(self) -> None:
        """Credit anew, and every open request asked for from where we are."""
        self._grant(self._window)
        for request_id, request in self._open.items():
            self._ask(request_id, request)

    def _ask_again(self, request_id: str, request: _Open) -> None:
        """For something that is missing: the answer to what was asked a moment ago may bring it."""
        if time.monotonic() - request.resumed_at >= _RESUME_AGAIN_S:
            self._ask(request_id, request)

    def _ask(self, request_id: str, request: _Open) -> None:
        request.resumed_at = time.monotonic()
        if request.only_cancel:
            self._send(_cancel(request_id, request.token))
            return
        resume = api.Resume(request_id=request_id, from_token=[s.next_token for s in request.samples],
                            token=request.token)
        self._send(api.ClientMessage(protocol_version=PROTOCOL_VERSION, resume=resume))

    def _take(self, event):
        kind = event.WhichOneof("body")
        if kind == "chunk":
            return self._take_chunk(event.chunk)
        if kind == "accepted":
            a = event.accepted
            if a.request_id in self._open:
                self._open[a.request_id].token = a.token
            return Accepted(a.request_id, list(a.prompt_token_ids), a.seed, a.max_tokens, a.token)
        if kind == "finished":
            f = event.finished
            request = self._open.get(f.request_id)
            if request is None:
                return None  # not the first end heard
            # After a short Resume, fewer samples are known than there are.
            if any(seen.next_token < s.completion_tokens for seen, s in zip(request.samples, f.samples)):
                self._ask_again(f.request_id, request)
                return None
            del self._open[f.request_id]
            t = f.timings
            timings = dict(tokenized_s=t.tokenized_us / 1e6, dispatched_s=t.dispatched_us / 1e6,
                           first_token_s=t.first_token_us / 1e6, finished_s=t.finished_us / 1e6,
                           preemptions=t.preemptions, attempts=t.attempts, replica=t.replica)
            samples = [dict(reason=_REASONS.get(s.reason, "failed"), stop_match=s.stop_match,
                            completion_tokens=s.completion_tokens) for s in f.samples]
            error = None
            if f.error.code != 0:
                error = RequestFailed(f.request_id, _code_name(f.error.code), f.error.message)
            return Finished(f.request_id, samples, f.prompt_tokens, f.cached_tokens, timings, error)
        if kind == "rejected":
            r = event.rejected
            self._open.pop(r.request_id, None)
            return Rejected(r.request_id, RequestFailed(r.request_id, _code_name(r.error.code), r.error.message,
                                                        r.retry_after_us / 1e6))
        if kind == "forgotten":
            self._start_over()
        return event.status if kind == "status" else None

    def _take_chunk(self, c):
        """Cuts off what has been seen before; asks again where something is missing."""
        token_ids, text, first, offset = list(c.token_ids), c.text, c.first_index, c.text_offset
        logprobs = [(e.chosen.token, e.chosen.logprob, [(b.token, b.logprob) for b in e.top]) for e in c.logprobs]
        request = self._open.get(c.request_id)
        if request is None:
            return None
        while c.sample >= len(request.samples):
            request.samples.append(_Sample())
        seen = request.samples[c.sample]
        if first > seen.next_token:
            self._ask_again(c.request_id, request)
            return None
        repeated = min(seen.next_token - first, len(token_ids))
        token_ids, logprobs, first = token_ids[repeated:], logprobs[repeated:], first + repeated
        seen.next_token = max(seen.next_token, first + len(token_ids))
        raw = text.encode()
        expected = offset if seen.next_byte is None else seen.next_byte
        if offset < expected:
            old = min(expected - offset, len(raw))
            raw, offset = raw[old:], offset + old
            text = raw.decode(errors="replace")
        seen.next_byte = max(expected, offset + len(raw))
        if not token_ids and not text:
            return None
        return TokenChunk(c.request_id, c.sample, first, token_ids, offset, text, logprobs)
