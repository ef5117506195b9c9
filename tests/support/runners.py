"""The runners of functions and programs, for agents that are not durable: they always complete."""

from celeriac.agents.command import runner as command
from celeriac.agents.python import runner as python
from celeriac.domain.executions.model import Completed
from celeriac.services.ports import Job, RunContext


class PythonRunner(python.PythonRunner):
    """A runner whose functions are never parked."""

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Call the function and return its result."""
        done = await super().run(job, context)
        assert isinstance(done, Completed), "it must not wait"
        return done


class CommandRunner(command.CommandRunner):
    """A runner whose programs are never parked."""

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Run the program and return its result."""
        done = await super().run(job, context)
        assert isinstance(done, Completed), "it must not wait"
        return done
