"""The only SQL of sla.

Lock order, everywhere: problems and customers (advisory, all in one order of their hashes), then `complaint_facts` in
id order. Whoever holds the facts of a ticket may change its clocks and escalations; whoever holds a problem may change
its incidents; whoever holds a customer sees all that was said of the customer's tickets.
"""
