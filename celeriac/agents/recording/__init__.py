"""The tape: a loopback server between a runner and its model providers (docs/adr/0009).

It is there only while an execution is recorded, then it passes requests on and keeps what goes by,
or played, then it answers them from a cassette and nothing leaves the machine.
"""

from celeriac.agents.recording.proxy import RecordingProxy, taping

__all__ = ["RecordingProxy", "taping"]
