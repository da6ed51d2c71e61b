"""Pure rules of dispatch: what a work order is, and what each verb does to it. No I/O, no clock."""
