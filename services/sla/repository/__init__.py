"""The only SQL of sla.

Lock order, everywhere: problem keys (advisory, in hash order), then `complaint_facts` in id order. Whoever holds the
facts of a ticket may change its clocks and escalations; whoever holds a problem key may change its incidents.
"""
