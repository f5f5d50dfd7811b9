"""How right are the counts? A page plays a recording, somebody presses a key for each crossing.

`recording` gives the pictures and counts, `begin` chooses what to watch, `server` is the page, and
`history/audit.py` has the figures.
"""
