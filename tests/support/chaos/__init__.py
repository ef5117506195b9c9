"""A system under random faults: thousands of executions, and what must hold of them afterwards.

    python -m tests.support.chaos --seed 7 --executions 10000

docs/chaos.md says what it does and how its table is read.
"""
