"""Random faults on a whole running stack: `python -m tests.faults.run` (`make faults`).

A driver that is never killed plays the people and journals every request; a seeded plan of faults runs beside it; when
all faults are over the stack must come to rest by itself, and a checker compares the journal with what is stored.
"""
