"""The child's way out: whole lines, whatever interrupts them."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from celeriac.agents.python.child_channel import Channel, SignalGate


@dataclass
class Pipe:
    channel: Channel
    reader: int

    def lines(self) -> list[object]:
        return [json.loads(line) for line in os.read(self.reader, 65_536).splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    yield Pipe(Channel(writer), reader)
    os.close(reader)
    os.close(writer)


def test_text_without_a_utf8_form_is_replaced(pipe: Pipe) -> None:
    pipe.channel.send({"text": "caf\udce9"})

    assert pipe.lines() == [{"text": "caf?"}]


def test_what_json_cannot_hold_raises_and_sends_nothing(pipe: Pipe) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        pipe.channel.send({"number": float("nan")})
    pipe.channel.send({"number": 1})

    assert pipe.lines() == [{"number": 1}]


def test_a_message_from_within_a_message_follows_it(pipe: Pipe) -> None:
    channel = pipe.channel
    write = channel._write
    sent_inside: list[bytes] = []

    def write_and_log(line: bytes) -> None:
        if not sent_inside:
            sent_inside.append(line)
            channel.send({"from": "a finaliser"})
        write(line)

    channel._write = write_and_log  # type: ignore[method-assign]
    channel.send({"from": "the agent"})

    assert pipe.lines() == [{"from": "the agent"}, {"from": "a finaliser"}]


def test_a_fork_cannot_send(pipe: Pipe) -> None:
    pipe.channel._pid += 1

    with pytest.raises(RuntimeError, match="a fork can't use it"):
        pipe.channel.send({})


def test_threads_do_not_mix_their_lines(pipe: Pipe) -> None:
    texts = [character * 20_000 for character in "abc"]
    threads = [threading.Thread(target=pipe.channel.send, args=({"text": text},)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    received = {json.dumps(line) for line in pipe.lines()}
    assert received == {json.dumps({"text": text}) for text in texts}


def test_interrupts_wait_for_the_end_of_what_is_held() -> None:
    interrupts = SignalGate()
    steps: list[str] = []

    def interrupted() -> None:
        with interrupts.hold():
            interrupts.raise_here(TimeoutError("later"))
            steps.append("went on")

    with pytest.raises(TimeoutError, match="later"):
        interrupted()

    assert steps == ["went on"]
    with pytest.raises(TimeoutError, match="now"):
        interrupts.raise_here(TimeoutError("now"))
