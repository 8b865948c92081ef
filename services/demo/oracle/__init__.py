"""The ledger's oracle: recomputes from the log, in plain SQL, what the services should have done.

It imports nothing of `services`: the columns below are its own statement of the contract, the definitions come from
Feast's registry through Feast, the values from Redis through Feast's stock store. It runs when the stages have
caught up, prints one line per promise, writes them as JSON and exits 1 when one is broken.
"""
