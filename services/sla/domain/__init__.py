"""Pure rules of sla: clocks, ladders, repeats and batches. No I/O, no clock, no framework."""
