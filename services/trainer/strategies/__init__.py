"""How an update is made: strategies behind one small protocol (`strategies.base`)."""
