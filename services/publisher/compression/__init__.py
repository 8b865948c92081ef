"""Makes a candidate's model.onnx smaller or faster between its gate and its staging, behind a gate of its own.

A plan is a list of steps (`plan`), each a pure function of a graph; `attempt` runs it, `judge` measures what it saved
and what it cost, and what does not pass is not served: the candidate goes on as the trainer exported it.
"""
