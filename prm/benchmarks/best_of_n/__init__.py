"""Best-of-N: scored candidates in, accuracy curves, length control, breakdowns, tables and figures out."""
